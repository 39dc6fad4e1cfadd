"""Threads of one process, and processes that share an artifact, decode as alone."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from lockstep.drawn import SHAPES, compiled_model

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14], [4, 4], [7, 1, 2, 9]]
CONFIGS: list[dict[str, Any]] = [
    {"commit": {"kind": "threshold", "threshold": 0.5}},
    {"commit": {"kind": "entropy_bound"}, "cache": {"kind": "dual"}},
    {"temperature": 0.7, "seed": 3},
]
PROGRAM = """
import sys
from dllmc.runtime.engine import Engine
engine = Engine.load(sys.argv[1], backend="eager")
print(engine.generate([5, 6, 7], max_new_tokens=9).tokens)
"""


@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[3]], ids=["plain", "tied"])
def test_threads_of_one_engine_decode_as_alone(shape: Any) -> None:
    engine = compiled_model(shape).engine(backend="eager")
    jobs = [(prompt, config) for prompt in PROMPTS for config in CONFIGS] * 3

    def decode(job: tuple[list[int], dict[str, Any]]) -> list[int]:
        tokens: list[int] = engine.generate(job[0], config=job[1], max_new_tokens=9).tokens
        return tokens

    # A fresh engine, so that its variants and packed weights are made by several threads at once.
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(decode, jobs))
    alone = compiled_model(shape).engine(backend="eager")
    expected = [alone.generate(p, config=c, max_new_tokens=9).tokens for p, c in jobs]
    assert together == expected


def test_processes_that_share_an_artifact_decode_as_alone(tmp_path: Path) -> None:
    compiled = compiled_model(SHAPES[2])
    path = compiled.save(tmp_path / "tiny.dllm")
    command = [sys.executable, "-c", PROGRAM, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {each.communicate()[0] for each in running}
    engine = compiled.engine(backend="eager")
    assert said == {f"{engine.generate([5, 6, 7], max_new_tokens=9).tokens}\n"}
