"""`dllmc inspect`, `pack` and `unpack`."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def test_inspect_says_what_an_artifact_is(dllmc: Any, artifact: Path) -> None:
    ran = dllmc("inspect", str(artifact))
    assert ran.status == 0
    for word in ("float32", "back end", "eager", "weights.safetensors", "max_length", "sha256"):
        assert word in ran.out
    facts = json.loads(dllmc("inspect", str(artifact), "--json").out)
    assert facts["backend"] == "eager"
    assert facts["sizes"].keys() == facts["files"].keys()
    assert facts["ahead_of_time"] is None


def test_inspect_reads_no_weights_and_names_what_is_damaged(
    dllmc: Any, artifact: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(artifact, tmp_path / "copy.dllm")
    (copy / "weights.safetensors").write_bytes(b"")
    assert dllmc("inspect", str(copy)).status == 0
    (copy / "programs" / "greedy.json").write_text("{}")
    ran = dllmc("inspect", str(copy))
    assert ran.status == 1
    assert "greedy.json" in ran.err


def test_what_was_packed_is_unpacked(dllmc: Any, artifact: Path, tmp_path: Path) -> None:
    archive, folder = tmp_path / "model.tar", tmp_path / "model"
    assert dllmc("pack", str(artifact), "-o", str(archive)).status == 0
    assert dllmc("unpack", str(archive)).status == 0
    assert dllmc("inspect", str(folder)).status == 0
    ran = dllmc("unpack", str(archive.rename(tmp_path / "model.zip")))
    assert ran.status == 2
    assert "-o model.dllm" in ran.err
