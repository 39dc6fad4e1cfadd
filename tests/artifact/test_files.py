from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from graphs.toys import llada
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from dllmc.artifact import Package, add_records, files, load_package, save_package
from dllmc.compiler import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine
from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS: list[dict[str, Any]] = [{"id": "a", "level": 1}, {"id": "b", "level": 2}]
CONFIG = {"schedule": {"kind": "blocks", "block_length": 8}, "temperature": 0.7}


@functools.cache
def package_of(**changes: Any) -> Package:
    module, spec = llada(torch.float32, **changes)
    words = {f"w{token}": token for token in range(96)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    model = LoadedModel(module, spec, tokenizer, "tiny", None, {})
    package = compile_model(model, engine_of=Engine, backend="eager").package
    return dataclasses.replace(package, records=RECORDS, notices="Free as in weights.\n")


def decoded(package: Package) -> list[list[int]]:
    engine = Engine(package)
    tokens: list[list[int]] = []
    for temperature in (0.0, 0.7):
        config = CONFIG | {"temperature": temperature}
        output = engine.generate([[1, 2, 3], [4]], config=config, max_new_tokens=16)
        tokens += output.tokens
    return tokens


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return save_package(package_of(), tmp_path / "model.dllm")


def contents(folder: Path) -> dict[str, bytes]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def edit(artifact: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = artifact / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    # Whoever forges a manifest forges its hash too, or leaves it out.
    data.pop("sha256")
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "changes", [{}, {"weight_tying": True}, {"n_kv_heads": 2, "include_qkv_bias": True}], ids=str
)
def test_what_is_read_decodes_as_what_was_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    written = package_of(**changes)
    read = load_package(save_package(written, tmp_path / "model.dllm"))
    assert decoded(read) == decoded(written)
    for name in ("name", "spec", "dtype", "backend", "weights_sha256", "report", "records"):
        assert getattr(read, name) == getattr(written, name)
    assert read.notices == "Free as in weights.\n"
    assert read.tokenizer is not None
    assert read.tokenizer.get_vocab() == written.tokenizer.get_vocab()  # type: ignore[union-attr]


def test_an_artifact_may_be_written_again_from_what_was_read(artifact: Path) -> None:
    again = save_package(load_package(artifact), artifact.with_name("again.dllm"))
    first, second = contents(artifact), contents(again)
    assert first.keys() == second.keys()
    assert decoded(load_package(again)) == decoded(package_of())


def test_the_folder_holds_these_files_and_no_pickle(artifact: Path) -> None:
    found = contents(artifact)
    (records,) = (name for name in found if name.startswith("records-"))
    assert found.keys() == {
        "manifest.json",
        "weights.safetensors",
        "tokenizer.json",
        "NOTICES.txt",
        "programs/greedy.json",
        "programs/none.json",
        "programs/sampled.json",
        records,
    }
    for name, content in found.items():
        if name.endswith(".json"):
            json.loads(content)
        # Protocol 2 and later begin like this; torch's archives are zip files.
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"))


def test_the_manifest_has_the_hash_of_every_other_file(artifact: Path) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert {*manifest["files"], "manifest.json"} == contents(artifact).keys()
    assert (manifest["format_version"], manifest["target"]) == (files.FORMAT_VERSION, "cpu")
    assert manifest["torch"] == torch.__version__


NAMES = (
    "weights.safetensors",
    "tokenizer.json",
    "NOTICES.txt",
    "programs/greedy.json",
    "programs/none.json",
    "programs/sampled.json",
    "records",
)


def file_named(artifact: Path, name: str) -> Path:
    (found,) = artifact.glob(f"{name}*")
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_bit_is_found(artifact: Path, name: str, place: int) -> None:
    file = file_named(artifact, name)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{file.name}.*its hash differs"):
        load_package(artifact)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(artifact: Path, name: str) -> None:
    file = file_named(artifact, name)
    file.unlink()
    with pytest.raises(ArtifactError, match=f"lacks `.*{file.name}`; copy it whole"):
        load_package(artifact)


def test_a_truncated_manifest_is_damaged(artifact: Path) -> None:
    manifest = artifact / "manifest.json"
    whole = manifest.read_text()
    for length in (0, 1, len(whole) // 2, len(whole) - 2):
        manifest.write_text(whole[:length])
        with pytest.raises(ArtifactError, match=r"manifest\.json` is damaged; compile again"):
            load_package(artifact)


@pytest.mark.parametrize("content", ["[]", "{}", '"text"', '{"format": "dllmc tuning database"}'])
def test_another_manifest_is_not_that_of_an_artifact(artifact: Path, content: str) -> None:
    (artifact / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match="is not that of an artifact"):
        load_package(artifact)


def test_another_format_version_says_who_wrote_it(artifact: Path) -> None:
    edit(artifact, lambda data: data.update(format_version=2, dllmc="9.1"))
    with pytest.raises(ArtifactError, match=r"artifact format 2 and this dllmc reads 1.*\(9\.1\)"):
        load_package(artifact)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", "tensorflow"),
        ("dtype", "float8"),
        ("target", "tpu"),
        ("spec", {"mask_id": 3}),
        ("files", None),
        ("programs", {}),
        ("surprise", 1),
    ],
)
def test_a_bad_field_is_named(artifact: Path, field: str, value: Any) -> None:
    edit(artifact, lambda data: data.update({field: value}))
    with pytest.raises(ArtifactError, match=f"is damaged at `{field}"):
        load_package(artifact)


@pytest.mark.parametrize("name", ["../secret.json", "/etc/hostname", "programs/../../secret.json"])
def test_a_path_outside_the_artifact_is_refused(artifact: Path, name: str) -> None:
    (artifact.parent / "secret.json").write_text("{}")
    digest = files.hash_file(artifact.parent / "secret.json")

    def change(data: dict[str, Any]) -> None:
        data["programs"]["greedy"] = name
        data["files"][name] = digest

    edit(artifact, change)
    with pytest.raises(ArtifactError, match=f"names the file `{name}` outside itself"):
        load_package(artifact)


@pytest.mark.parametrize("name", ["weights.safetensors", "programs"])
@pytest.mark.parametrize("place", ["elsewhere", "model.dllm/within"])
def test_a_link_is_refused(artifact: Path, name: str, place: str) -> None:
    moved = artifact.parent / place
    shutil.move(artifact / name, moved)
    (artifact / name).symlink_to(moved)
    with pytest.raises(ArtifactError, match=rf"{name}` in the artifact is a link; copy"):
        load_package(artifact)


@pytest.mark.parametrize("name", ["manifest.json", "programs\\greedy.json", "a\0b"])
def test_a_name_that_is_none_is_refused(artifact: Path, name: str) -> None:
    edit(artifact, lambda data: data["files"].update({name: "0" * 64}))
    with pytest.raises(ArtifactError, match="which is no file of an artifact"):
        load_package(artifact)


def test_a_changed_manifest_is_refused(artifact: Path) -> None:
    path = artifact / "manifest.json"
    text = path.read_text()
    mask_id = package_of().spec.mask_id
    assert text.count(f'"mask_id": {mask_id}') == 1
    path.write_text(text.replace(f'"mask_id": {mask_id}', f'"mask_id": {mask_id - 1}'))
    with pytest.raises(ArtifactError, match=r"manifest\.json` is not as it was written"):
        load_package(artifact)


def test_a_file_without_a_hash_is_refused(artifact: Path) -> None:
    edit(artifact, lambda data: data["files"].pop("programs/sampled.json"))
    with pytest.raises(ArtifactError, match=r"has no hash of programs/sampled\.json"):
        load_package(artifact)


def test_a_file_that_was_added_is_not_read(artifact: Path) -> None:
    plain = dataclasses.replace(package_of(), tokenizer=None, notices="")
    bare = save_package(plain, artifact.with_name("bare.dllm"))
    (bare / "tokenizer.json").write_text("malicious")
    (bare / "NOTICES.txt").write_text("malicious")
    read = load_package(bare)
    assert read.tokenizer is None
    assert read.notices == ""


def test_what_stands_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no artifact at"):
        load_package(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"has no manifest\.json; it is no artifact"):
        load_package(tmp_path)


def test_an_artifact_is_replaced(artifact: Path) -> None:
    other = dataclasses.replace(package_of(), name="other", records=[])
    assert save_package(other, artifact) == artifact
    assert load_package(artifact).name == "other"
    assert [path.name for path in artifact.parent.iterdir()] == ["model.dllm"]


@pytest.mark.parametrize("failing", ["_write", "replace"])
def test_a_failed_replacement_leaves_the_old_one(
    artifact: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(artifact)
    plain = files.os.replace

    def refuse(*arguments: Any) -> NoReturn:
        raise KeyboardInterrupt

    def refuse_to_arrive(source: Any, target: Any) -> None:
        # The new one cannot be put in place although the old one is already out of the way.
        if Path(target) == artifact and not str(source).endswith(".old"):
            raise OSError("disk full")
        plain(source, target)

    if failing == "_write":
        monkeypatch.setattr(files, "_write", refuse)
    else:
        monkeypatch.setattr(files.os, "replace", refuse_to_arrive)
    with pytest.raises((KeyboardInterrupt, OSError)):
        save_package(dataclasses.replace(package_of(), name="other"), artifact)
    assert contents(artifact) == before
    assert [path.name for path in artifact.parent.iterdir()] == ["model.dllm"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("thesis.txt", "years of work"),
        ("manifest.json", '{"format": "dllmc tuning database"}'),
        ("manifest.json", '{"name": "a web page", "format_version": 1}'),
        ("manifest.json", "not JSON"),
    ],
)
def test_a_folder_that_is_no_artifact_is_never_overwritten(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text(content)
    with pytest.raises(ArtifactError, match="exists and is no artifact; choose another path"):
        save_package(package_of(), tmp_path / "mine")
    assert contents(tmp_path / "mine") == {name: content.encode()}


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years of work")
    with pytest.raises(ArtifactError, match="exists and is no artifact"):
        save_package(package_of(), tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "years of work"


def test_files_of_others_in_an_artifact_are_not_lost(artifact: Path) -> None:
    (artifact / "notes.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"holds `notes\.txt`, which is not the artifact's"):
        save_package(package_of(), artifact)
    assert (artifact / "notes.txt").read_text() == "years of work"
    assert load_package(artifact).name == "tiny"


def test_an_artifact_of_another_version_may_be_replaced(artifact: Path) -> None:
    edit(artifact, lambda data: data.update(format_version=99))
    save_package(package_of(), artifact)
    assert load_package(artifact).name == "tiny"


def test_records_are_added_and_replaced_by_id(artifact: Path) -> None:
    add_records(artifact, [{"id": "b", "level": 7}, {"id": "c", "level": 3}])
    package = load_package(artifact)
    assert package.records == [
        {"id": "a", "level": 1},
        {"id": "b", "level": 7},
        {"id": "c", "level": 3},
    ]
    assert sum(name.startswith("records-") for name in contents(artifact)) == 1
    add_records(artifact, [])
    assert load_package(artifact).records == package.records


@pytest.mark.parametrize("writes", [0, 1])
def test_interrupted_records_leave_a_whole_artifact(
    artifact: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, done = files.write_atomically, []

    def interrupted(file: Path, text: str) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(file)
        plain(file, text)

    monkeypatch.setattr(files, "write_atomically", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_records(artifact, [{"id": "c"}])
    assert load_package(artifact).records == RECORDS
    monkeypatch.undo()
    add_records(artifact, [{"id": "c"}])
    assert load_package(artifact).records == [*RECORDS, {"id": "c"}]
    # What an interruption leaves is no reason to refuse a replacement.
    save_package(package_of(), artifact)


def test_records_are_not_added_to_damage(artifact: Path) -> None:
    file = file_named(artifact, "records")
    file.write_text("[]")
    before = contents(artifact)
    with pytest.raises(ArtifactError, match="its hash differs"):
        add_records(artifact, [{"id": "c"}])
    assert contents(artifact) == before


def test_hashes_follow_names_types_shapes_and_contents() -> None:
    base = {"a": torch.arange(6.0), "b": torch.tensor(1)}
    hashes = {files.hash_weights(base)}
    for change in (
        {"c": torch.arange(6.0)},
        {"a": torch.arange(6.0).view(2, 3)},
        {"a": torch.arange(6)},
        {"a": torch.arange(6.0).flip(0)},
        {"b": torch.tensor(2)},
    ):
        hashes.add(files.hash_weights(copy.copy(base) | change))
    assert len(hashes) == 6
    reordered = dict(reversed(base.items()))
    assert files.hash_weights(reordered) == files.hash_weights(base)
    strided = base | {"a": torch.arange(12.0)[::2] / 2}
    assert files.hash_weights(strided) == files.hash_weights(base)


def test_writers_of_one_place_do_not_destroy_each_other(tmp_path: Path) -> None:
    place = tmp_path / "model.dllm"
    packages = [package_of(), package_of(weight_tying=True)]

    def write(number: int) -> None:
        save_package(packages[number % 2], place)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(40)))
    written = {package.weights_sha256 for package in packages}
    assert load_package(place).weights_sha256 in written
    assert list(tmp_path.iterdir()) == [place]


KILLED = """
import sys
from dllmc.artifact import load_package, save_package
package = load_package(sys.argv[1])
print("ready", flush=True)
while True:
    save_package(package, sys.argv[2])
"""


def test_a_writer_that_is_killed_leaves_a_whole_artifact_or_none(
    artifact: Path, tmp_path: Path
) -> None:
    place, rng = tmp_path / "place" / "other.dllm", random.Random(0)
    place.parent.mkdir()
    for _ in range(4):
        command = [sys.executable, "-c", KILLED, str(artifact), str(place)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(rng.uniform(0.005, 0.1))
            writer.kill()
        if place.exists():
            assert load_package(place).weights_sha256 == package_of().weights_sha256
    left = [f for f in place.parent.iterdir() if f != place]
    for folder in left:
        os.utime(folder, (0, 0))
    save_package(package_of(), place)
    assert list(place.parent.iterdir()) == [place]
