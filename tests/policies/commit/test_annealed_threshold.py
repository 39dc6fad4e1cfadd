from __future__ import annotations

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.annealed_threshold import AnnealedThreshold
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError


def at(evaluations: int) -> BlockProgress:
    return BlockProgress(step=0, masks=4, blocks=1, evaluations=evaluations)


def test_the_threshold_falls_from_1_to_its_value() -> None:
    policy = AnnealedThreshold(threshold=0.5, decay=0.25)
    assert [policy.now(at(n)) for n in range(4)] == [1.0, 0.75, 0.5, 0.5]
    assert [policy.values(at(n))["doubt"] for n in (0, 2)] == [0.0, 1.0]
    assert AnnealedThreshold(threshold=0.5, decay=0).now(at(99)) == 1.0


def test_rows_that_reach_it_commit_or_the_surest() -> None:
    policy = AnnealedThreshold(threshold=0.5, decay=0.25)
    doubts = [2.0, 1 / 3, 1.0, 0.5]
    expected: list[set[int]] = [{1}, {1}, {1, 2, 3}]
    for evaluations, chosen in enumerate(expected):
        progress = at(evaluations)
        assert commit_oracle(policy, predictions(doubts), progress) == chosen
        values = {n: torch.tensor([v]) for n, v in policy.values(progress).items()}
        committed = commit_rows(policy, rows([doubts]), values)[0].tolist()
        assert {i for i, flag in enumerate(committed) if flag} == chosen


@pytest.mark.parametrize("fields", [{"threshold": 0}, {"threshold": 1.5}, {"decay": -0.1}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        AnnealedThreshold(**fields)  # type: ignore[arg-type]
