"""At which level each finalist is tested, and who wins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dllmc.autotune import confirm as room
from dllmc.autotune.fallback import shares_of
from dllmc.autotune.judging import Verdict
from dllmc.policies.config import SPEED_BASELINE

if TYPE_CHECKING:
    import pytest


def outcome_of(
    monkeypatch: pytest.MonkeyPatch, p_values: list[float], *, scarce: bool = False
) -> tuple[list[float], int | None]:
    """The levels of tests with these outcomes, and the index of the winner."""
    finalists: list[Any] = [
        SimpleNamespace(surely_faster=True, candidate=SimpleNamespace(config=SPEED_BASELINE))
        for _ in p_values
    ]
    count, levels = len(p_values), list[float]()
    plan = room._Plan(finalists, [800] * count, shares_of(count, all_to_first=scarce), 0)

    def judge(*_: Any, alpha: float, **__: Any) -> Verdict:
        p_value = p_values[len(levels)]
        levels.append(round(alpha, 6))
        return Verdict(SPEED_BASELINE, 800, 0, 0, -0.01, p_value, p_value <= alpha, "lossy")

    monkeypatch.setattr(room, "judge", judge)
    monkeypatch.setattr(room, "_stored_plan", lambda *_: plan)
    monkeypatch.setattr(room, "_decode", lambda *_: None)
    job: Any = SimpleNamespace(
        settings=SimpleNamespace(margin=0.02, batch=16),
        study=SimpleNamespace(set_user_attr=lambda *_: None),
        task=SimpleNamespace(samples=lambda *_: []),
        tell=lambda *_, **__: None,
    )
    done = room.confirm(job, job, finalists)
    return levels, None if done.winner is None else next(
        i for i, f in enumerate(finalists) if f is done.winner
    )


def test_a_failure_hands_nothing_on_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome_of(monkeypatch, [0.001, 0.04, 0.001]) == ([0.025, 0.0375, 0.0125], 2)
    assert outcome_of(monkeypatch, [0.04, 0.001, 0.02]) == ([0.025, 0.0125, 0.025], 2)


def test_the_fastest_that_passed_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome_of(monkeypatch, [0.001, 0.001, 0.06]) == ([0.025, 0.0375, 0.05], 1)
    assert outcome_of(monkeypatch, [0.06, 0.06, 0.06])[1] is None


def test_where_prompts_are_few_the_first_failure_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome_of(monkeypatch, [0.04, 0.06, 0.001], scarce=True) == ([0.05, 0.05], 0)
