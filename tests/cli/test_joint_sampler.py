"""Decoding with a joint sampler, from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from joint.layers import layer_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def asked(path: str) -> tuple[object, ...]:
    config = {
        "schedule": {"kind": "blocks", "block_length": 8},
        "commit": {"kind": "quota"},
        "stop": {"kind": "length"},
        "verify": {"kind": "joint_sampler", "path": path, "tokens": 4},
    }
    return "sort: d a c b", "--max-new-tokens", 8, "--config", json.dumps(config)


def test_engine_and_reference_agree_and_count_passes_apart(
    dllmc: Callable, checkpoint: Path, artifact: Path
) -> None:
    given = asked(layer_file(32))
    found = dllmc("generate", artifact, *given, "--json").json
    assert (found["nfe"], found["auxiliary_nfe"]) == (2, 6)
    assert dllmc("generate", checkpoint, *given, "--json", "--engine", "reference").json == found
    told = dllmc("generate", artifact, *given).out
    assert "8 tokens in 2 evaluations, and 6 passes of the joint sampler" in told


def test_a_trace_shows_every_pass(dllmc: Callable, artifact: Path) -> None:
    trace = dllmc("trace", artifact, *asked(layer_file(32)), "--json").json
    assert [line["nfe"] for line in trace["trace"]] == [1, 1, 1, 1, 2, 2, 2, 2]


def test_a_layer_that_is_missing_or_of_another_model_is_one_line(
    dllmc: Callable, artifact: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.safetensors")
    for path, expected in (
        (missing, f"`verify.path`='{missing}' cannot be read"),
        (layer_file(64), "the layer of the joint sampler has width 64"),
    ):
        ran = dllmc("generate", artifact, *asked(path))
        assert ran.status == 2
        assert ran.err.count("\n") == 1
        assert expected in ran.err
