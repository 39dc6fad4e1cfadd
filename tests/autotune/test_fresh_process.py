"""The short list is timed in a process that has done nothing before."""

from __future__ import annotations

import functools
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from planted_world import PlantedEngine

import dllmc
from dllmc.autotune.fresh_process import suits, time_rounds
from dllmc.policies.config import SPEED_BASELINE
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from dllmc.runtime import Engine

FAST = SPEED_BASELINE.replace(commit={"kind": "threshold", "threshold": 0.5})


@functools.cache
def engine() -> Engine:
    return dllmc.compile(dllmc.load_model("embedded"), backend="eager").engine()


def test_every_round_decodes_with_every_configuration_in_another_order() -> None:
    prompts = [[engine().encode("copy: a b c")] * 2, [engine().encode("copy: d e")]]
    found = list(time_rounds(engine(), [SPEED_BASELINE, FAST], [False] * 2, prompts, 8, 3))
    assert [(d.round, d.config) for d in found] == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    assert all(decode.seconds > 0 for decode in found)
    expected = engine().generate(prompts[0], config=FAST, max_new_tokens=8)
    assert found[1].tokens == sum(map(len, expected.tokens))


def test_a_process_that_fails_says_why() -> None:
    bad = [[[10**6]]]
    with pytest.raises(TuningError, match=r"timing in a new process failed: .*1000000"):
        list(time_rounds(engine(), [FAST], [False], bad, 8, 1))


def test_it_is_another_process_and_ends_when_nobody_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(real(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    rounds = time_rounds(engine(), [FAST], [False], [[engine().encode("copy: a")]], 8, 10**9)
    assert next(rounds).seconds > 0
    [process] = started
    assert process.poll() is None
    rounds.close()  # type: ignore[attr-defined]
    assert process.poll() is not None


def test_only_what_another_process_can_load_is_timed_there() -> None:
    assert suits(engine())
    assert not suits(PlantedEngine())  # type: ignore[arg-type]
