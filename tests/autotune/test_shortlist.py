"""Who is confirmed: spread over the speeds, and a few in doubt behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dllmc.autotune import shortlist as room
from dllmc.autotune.shortlist import FINE_TIERS, Candidate, shortlist, spread
from dllmc.policies.config import SPEED_BASELINE

if TYPE_CHECKING:
    import pytest


def candidate(ratio: float, losses: int = 0, wins: int = 0) -> Candidate:
    config = SPEED_BASELINE.replace(commit={"kind": "threshold", "threshold": 0.5 + ratio / 10})
    return Candidate(config, 0, ratio, 1 / ratio, 256, wins, losses, (losses + wins) / 256)


def chosen(monkeypatch: pytest.MonkeyPatch, *found: Candidate) -> list[float]:
    monkeypatch.setattr(room, "candidates", lambda *_, **__: list(found))
    job: Any = SimpleNamespace(settings=SimpleNamespace(margin=0.02))
    pilot: Any = SimpleNamespace(reference_ratios=[0.2])
    return [item.ratio for item in shortlist(job, pilot)]


def test_each_tier_gives_its_least_risky_one_slowest_first() -> None:
    found = [candidate(r) for r in (1.0, 0.98, 0.95, 0.9, 0.8, 0.6, 0.3)]
    assert [item.ratio for item in spread(found, FINE_TIERS)] == [0.6, 0.8, 0.9, 0.95, 1.0]
    safer = candidate(0.98)
    found = [candidate(1.0, losses=2), safer]
    assert spread(found, FINE_TIERS) == [safer]


def test_a_slower_one_that_loses_more_is_no_fallback() -> None:
    found = [candidate(1.0, losses=1), candidate(0.8, losses=3), candidate(0.6)]
    assert [item.ratio for item in spread(found, FINE_TIERS)] == [0.6, 1.0]


def test_what_is_in_doubt_comes_last_and_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    sure, slow_doubt = candidate(1.0), candidate(0.9, losses=7)
    doubts = [candidate(1.1, losses=8, wins=1), candidate(1.2, losses=6), candidate(1.3, losses=9)]
    assert chosen(monkeypatch, sure, slow_doubt, *doubts) == [1.0, 1.1, 1.2]


def test_what_is_no_faster_than_safe_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, candidate(0.19), candidate(0.3)) == [0.3]
    assert chosen(monkeypatch, candidate(0.19)) == []


def test_where_nothing_is_sure_what_is_in_doubt_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, candidate(1.0, losses=6)) == [1.0]
