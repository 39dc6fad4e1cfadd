"""Whatever happens to the bytes of an artifact: it is refused by name, or decodes as before."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
import torch
from graphs.toys import llada

from dllmc.artifact import load_package, save_package
from dllmc.compiler import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine
from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[bytearray, random.Random], None]

TIMES: Final = 1000


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def blank(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data))
    end = min(len(data), begin + rng.randrange(1, 4096))
    data[begin:end] = bytes(end - begin)


def insert(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data) + 1)
    data[begin:begin] = rng.randbytes(rng.randrange(1, 64))


def drop(data: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + rng.randrange(1, 64)]


CHANGES: Final[tuple[Change, ...]] = (flip, flip, overwrite, cut, blank, insert, drop)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module, spec = llada(torch.float32)
    model = LoadedModel(module, spec, None, "tiny", None, {})
    package = compile_model(model, engine_of=Engine, backend="eager").package
    return save_package(package, tmp_path_factory.mktemp("corruption") / "tiny.dllm")


def tokens(artifact: Path) -> list[list[int]]:
    found: list[list[int]] = Engine.load(artifact).generate([[1, 2], [4]], max_new_tokens=8).tokens
    return found


def refusal(artifact: Path) -> str | None:
    """Why the artifact is not loaded, or None."""
    try:
        load_package(artifact)
    except ArtifactError as error:
        return str(error)
    return None


def test_a_thousand_corruptions_are_refused_or_harmless(artifact: Path) -> None:
    rng, expected = random.Random(0), tokens(artifact)
    whole = {file: file.read_bytes() for file in artifact.rglob("*") if file.is_file()}
    refused = 0
    for _ in range(TIMES):
        file, change = rng.choice(sorted(whole)), rng.choice(CHANGES)
        data = bytearray(whole[file])
        change(data, rng)
        file.write_bytes(data)
        reason = refusal(artifact)
        if reason is None:
            assert tokens(artifact) == expected, (file.name, change)
        else:
            assert file.name in reason or "manifest.json" in reason, change
            refused += 1
        file.write_bytes(whole[file])
    # A byte may be overwritten with what it was, and spaces of the manifest say nothing.
    assert refused > 0.95 * TIMES


def test_swapped_and_missing_files_are_refused(artifact: Path) -> None:
    whole = {file: file.read_bytes() for file in artifact.rglob("*") if file.is_file()}
    for file, data in whole.items():
        file.unlink()
        with pytest.raises(ArtifactError, match=file.name):
            load_package(artifact)
        other = next(f for f in whole if whole[f] != data)
        file.write_bytes(whole[other])
        with pytest.raises(ArtifactError, match=file.name):
            load_package(artifact)
        file.write_bytes(data)
    assert load_package(artifact)
