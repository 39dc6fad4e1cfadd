from __future__ import annotations

import io
import random
import shutil
import tarfile
from typing import TYPE_CHECKING

import pytest
import torch
from graphs.toys import llada

from dllmc.artifact import load_package, save_package
from dllmc.artifact.archive import pack, unpack
from dllmc.compiler import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine
from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

TIMES = 200


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, spec = llada(torch.float32)
    model = LoadedModel(module, spec, None, "tiny", None, {})
    package = compile_model(model, engine_of=Engine, backend="eager").package
    return save_package(package, tmp_path_factory.mktemp("archive") / "tiny.dllm")


@pytest.fixture
def artifact(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "tiny.dllm")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_what_is_unpacked_is_what_was_packed(artifact: Path, tmp_path: Path) -> None:
    archive = pack(artifact, tmp_path / "a.tar")
    folder = unpack(archive, tmp_path / "b.dllm")
    assert contents(folder) == contents(artifact)
    assert load_package(folder).name == "tiny"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.tar", "b.dllm", "tiny.dllm"]


def test_the_same_artifact_gives_the_same_bytes(artifact: Path, tmp_path: Path) -> None:
    first = pack(artifact, tmp_path / "1.tar").read_bytes()
    for file in artifact.rglob("*"):
        file.chmod(0o700)
    (artifact / "stranger.txt").write_text("not listed")
    copy = shutil.copytree(artifact, tmp_path / "copy", copy_function=shutil.copyfile)
    assert pack(copy, tmp_path / "2.tar").read_bytes() == first


def test_a_damaged_artifact_is_not_packed(artifact: Path, tmp_path: Path) -> None:
    (artifact / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        pack(artifact, tmp_path / "a.tar")
    assert not (tmp_path / "a.tar").exists()


def test_corrupted_archives_are_refused_or_harmless(artifact: Path, tmp_path: Path) -> None:
    rng, expected = random.Random(0), contents(artifact)
    whole = pack(artifact, tmp_path / "a.tar").read_bytes()
    refused = 0
    for number in range(TIMES):
        data = bytearray(whole)
        if number % 4:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            del data[rng.randrange(len(data)) :]
        (tmp_path / "a.tar").write_bytes(data)
        target = tmp_path / f"{number}.dllm"
        try:
            unpack(tmp_path / "a.tar", target)
        except ArtifactError:
            refused += 1
            assert not target.exists()
        else:
            assert contents(target) == expected
            shutil.rmtree(target)
    assert refused > TIMES / 2


def entry(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, "/etc/hostname"
    made.size = len(content) if kind == tarfile.REGTYPE else 0
    return made


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (entry("../outside"), "names the file `../outside` outside itself"),
        (entry("/tmp/outside"), "names the file `/tmp/outside` outside itself"),
        (entry("link", kind=tarfile.SYMTYPE), "`link`, which is no plain file"),
        (entry("link", kind=tarfile.LNKTYPE), "`link`, which is no plain file"),
        (entry("device", kind=tarfile.CHRTYPE), "`device`, which is no plain file"),
        (entry("manifest.json"), "`manifest.json` twice"),
        (entry("stranger"), "`stranger`, which the manifest does not list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_file_of_the_artifact_is_refused(
    artifact: Path, tmp_path: Path, bad: tarfile.TarInfo, complaint: str
) -> None:
    archive = pack(artifact, tmp_path / "a.tar")
    with tarfile.open(archive, "a") as tar:
        tar.addfile(bad, io.BytesIO(b"x"))
    with pytest.raises(ArtifactError, match=complaint):
        unpack(archive, tmp_path / "b.dllm")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.tar", "tiny.dllm"]


def test_an_archive_without_an_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="`dllmc pack` makes one"):
        unpack(tmp_path / "none.tar", tmp_path / "b.dllm")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(entry("some"), io.BytesIO(b"x"))
    with pytest.raises(ArtifactError, match="holds no artifact"):
        unpack(tmp_path / "a.tar", tmp_path / "b.dllm")


def test_an_artifact_that_stands_there_stays_if_the_archive_is_damaged(
    artifact: Path, tmp_path: Path
) -> None:
    archive = pack(artifact, tmp_path / "a.tar")
    archive.write_bytes(archive.read_bytes()[:2000])
    before = contents(artifact)
    with pytest.raises(ArtifactError):
        unpack(archive, artifact)
    assert contents(artifact) == before
