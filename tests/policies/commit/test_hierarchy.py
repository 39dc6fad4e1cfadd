from __future__ import annotations

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.hierarchy import Hierarchy
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)


def decided(
    policy: Hierarchy, probabilities: list[float], committed: tuple[int, ...] = ()
) -> set[int]:
    """What commits beside the rows that are committed already, by both sides."""
    doubts = [(1 - p) / p for p in probabilities]
    eligible = [index not in committed for index in range(len(doubts))]
    values = {name: torch.tensor([v]) for name, v in policy.values(PROGRESS).items()}
    selected = commit_rows(policy, rows([doubts], [eligible]), values)
    chosen = set(selected[0].nonzero().flatten().tolist())
    asked = [row for row in predictions(doubts) if eligible[row.position]]
    found = commit_oracle(policy, asked, PROGRESS)
    assert {asked[index].position for index in found} == chosen
    return chosen


def test_the_best_of_every_gap_commits() -> None:
    policy = Hierarchy(threshold=1, low=0)
    assert decided(policy, [0.2, 0.3, 0.1, 0.9, 0.4, 0.5], committed=(3,)) == {1, 5}
    assert decided(policy, [0.2, 0.9, 0.3, 0.9, 0.4], committed=(1, 3)) == {0, 2, 4}


def test_but_not_what_is_too_unsure() -> None:
    policy = Hierarchy(threshold=1, low=0.4)
    assert decided(policy, [0.2, 0.3, 0.1, 0.9, 0.4, 0.5], committed=(3,)) == {5}


def test_one_row_commits_even_if_all_are_too_unsure() -> None:
    policy = Hierarchy(threshold=1, low=0.6)
    assert decided(policy, [0.2, 0.3, 0.1, 0.9, 0.25, 0.5], committed=(3,)) == {5}


def test_the_very_sure_commit_wherever_they_stand() -> None:
    policy = Hierarchy(threshold=0.8, low=0.4)
    assert decided(policy, [0.9, 0.85, 0.95, 0.7]) == {0, 1, 2}


def test_thresholds_are_exceeded_and_not_reached() -> None:
    assert decided(Hierarchy(threshold=0.5, low=0.25), [0.5, 0.5, 0.9, 0.25], (2,)) == {0, 1}
    assert decided(Hierarchy(threshold=0.5, low=0.5), [0.5, 0.9, 0.25], (1,)) == {0}


def test_all_of_a_gap_that_are_the_best_commit() -> None:
    assert decided(Hierarchy(threshold=1, low=0.1), [0.4, 0.2, 0.4, 0.3]) == {0, 2}


def test_gaps_are_those_of_the_canvas() -> None:
    policy = Hierarchy(threshold=1, low=0)
    values = {name: torch.tensor([v]) for name, v in policy.values(PROGRESS).items()}
    positions, doubts = [4, 5, 7, 8], [1.0, 2.0, 3.0, 4.0]
    made = rows([doubts], positions=torch.tensor([positions]))
    assert commit_rows(policy, made, values).tolist() == [[True, False, True, False]]
    asked = predictions(doubts, positions=positions)
    assert commit_oracle(policy, asked, PROGRESS) == {0, 2}


@pytest.mark.parametrize("fields", [{"threshold": 0}, {"threshold": 1.5}, {"low": -0.1}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Hierarchy(**fields)
