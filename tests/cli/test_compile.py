from __future__ import annotations

from typing import TYPE_CHECKING

import dllmc as package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_the_table_has_a_row_per_pass_and_the_remark_says_what_loading_does(
    dllmc: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.dllm"
    ran = dllmc("compile", checkpoint, "-o", path, "--verify")
    assert ran.status == 0, ran.err
    rows = {line.split()[0]: line.split()[1:3] for line in ran.out.splitlines() if line.strip()}
    assert rows["match_attention"] == ["2", "2"]
    assert rows["insert_cache"] == ["2", "2"]
    assert f"wrote {path}: tiny, float32, every pass verified in float64" in ran.out
    assert "decoding with it compiles the graph first" in ran.err
    assert package.load(path).backend == "inductor"


def test_json_names_the_artifact_its_weights_and_every_pass(
    dllmc: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.dllm"
    found = dllmc(
        "compile", checkpoint, "-o", path, "--backend", "eager", "--dtype", "float64", "--json"
    ).json
    engine = package.load(path)
    passes = found.pop("passes")
    assert found == {
        "artifact": str(path),
        "model": "tiny",
        "backend": "eager",
        "dtype": "float64",
        "precision": None,
        "weights_sha256": engine.weights_sha256,
    }
    assert [entry["name"] for entry in passes] == [
        entry["name"] for entry in engine.package.report
    ]


def test_compiling_again_replaces_the_artifact(
    dllmc: Callable, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.dllm"
    for dtype in ("float32", "float64"):
        ran = dllmc("compile", checkpoint, "-o", path, "--backend", "eager", "--dtype", dtype)
        assert ran.status == 0, ran.err
    assert package.load(path).dtype == "float64"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.dllm"]
