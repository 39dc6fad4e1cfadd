from __future__ import annotations

import random

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.local_leap import LocalLeap
from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)


def decided(
    policy: LocalLeap | Threshold, probabilities: list[float], positions: list[int] | None = None
) -> set[int]:
    """Positions that commit, by both sides."""
    places = list(range(len(probabilities))) if positions is None else positions
    doubts = [(1 - p) / p for p in probabilities]
    values = {name: torch.tensor([v]) for name, v in policy.values(PROGRESS).items()}
    committed = commit_rows(policy, rows([doubts], positions=torch.tensor([places])), values)
    chosen = {place for place, flag in zip(places, committed[0].tolist(), strict=True) if flag}
    asked = predictions(doubts, positions=places)
    assert {places[i] for i in commit_oracle(policy, asked, PROGRESS)} == chosen
    return chosen


def test_less_is_asked_beside_an_anchor() -> None:
    policy = LocalLeap(threshold=0.9, relaxed=0.7, radius=2)
    assert decided(policy, [0.8, 0.8, 0.6, 0.95, 0.8, 0.8, 0.8]) == {1, 3, 4, 5}


def test_distances_are_those_of_the_canvas() -> None:
    policy = LocalLeap(threshold=0.9, relaxed=0.7, radius=2)
    assert decided(policy, [0.95, 0.8, 0.8], [10, 12, 13]) == {10, 12}


def test_what_leaps_is_no_anchor() -> None:
    policy = LocalLeap(threshold=0.9, relaxed=0.7, radius=1)
    assert decided(policy, [0.95, 0.8, 0.8, 0.8]) == {0, 1}


def test_without_an_anchor_the_surest_row_commits() -> None:
    policy = LocalLeap(threshold=0.9, relaxed=0.5, radius=8)
    assert decided(policy, [0.6, 0.8, 0.7]) == {1}


def test_a_threshold_that_is_reached_is_enough() -> None:
    policy = LocalLeap(threshold=0.5, relaxed=0.25, radius=1)
    assert decided(policy, [0.5, 0.25, 0.25]) == {0, 1}


def test_committed_rows_are_no_anchors() -> None:
    policy = LocalLeap(threshold=0.9, relaxed=0.7, radius=1)
    values = {name: torch.tensor([v]) for name, v in policy.values(PROGRESS).items()}
    made = rows([[0.01, 0.25, 0.3]], [[False, True, True]])
    assert commit_rows(policy, made, values).tolist() == [[False, True, False]]


def test_with_a_radius_of_0_it_is_the_threshold() -> None:
    draw = random.Random(4)
    leap = LocalLeap(threshold=0.8, relaxed=0.6, radius=0)
    for _ in range(50):
        drawn = [draw.uniform(0.3, 1.0) for _ in range(8)]
        assert decided(leap, drawn) == decided(Threshold(threshold=0.8), drawn)


def test_sequences_of_a_batch_have_radii_of_their_own() -> None:
    policies = [LocalLeap(threshold=0.9, relaxed=0.7, radius=radius) for radius in (1, 2)]
    values = {
        name: torch.tensor([policy.values(PROGRESS)[name] for policy in policies])
        for name in ("doubt", "relaxed", "radius")
    }
    committed = commit_rows(policies[0], rows([[0.01, 0.3, 0.3, 0.3]] * 2), values)
    assert committed.sum(-1).tolist() == [2, 3]


@pytest.mark.parametrize("fields", [{"threshold": 0}, {"relaxed": 1.5}, {"radius": -1}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        LocalLeap(**fields)  # type: ignore[arg-type]
