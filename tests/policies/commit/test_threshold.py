from __future__ import annotations

import math

import pytest
import torch

from dllmc.policies.axes import BlockProgress, commit_oracle, commit_rows
from dllmc.policies.commit.threshold import Threshold
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)


def doubts(*probabilities: float) -> list[float]:
    return [(1 - p) / p for p in probabilities]


def test_everything_sure_enough_commits() -> None:
    assert Threshold(threshold=0.5).oracle(doubts(0.9, 0.4, 0.6), PROGRESS) == {0, 2}


def test_the_threshold_itself_is_sure_enough() -> None:
    assert Threshold(threshold=0.25).oracle([3.0, 3.0000001], PROGRESS) == {0}
    values = {"doubt": torch.tensor([Threshold(threshold=0.25).values(PROGRESS)["doubt"]])}
    selected = Threshold.select(torch.tensor([[3.0, 3.001]]), torch.ones(1, 2).bool(), values)
    assert selected.tolist() == [[True, False]]


@pytest.mark.parametrize("doubt", [[2.0, 1.0, 1.0], [math.inf, math.inf], [1e-30, 0.5]])
def test_at_a_threshold_of_1_only_what_has_no_doubt_commits_beside_the_surest(
    doubt: list[float],
) -> None:
    policy = Threshold(threshold=1)
    assert policy.oracle(doubt, PROGRESS) == set()
    assert policy.oracle([*doubt, 0.0], PROGRESS) == {len(doubt)}
    values = {"doubt": torch.tensor([policy.values(PROGRESS)["doubt"]])}
    rows = torch.tensor([doubt])
    committed = commit_rows(Threshold, rows, torch.ones_like(rows).bool(), values)
    assert committed[0].nonzero().flatten().tolist() == [*commit_oracle(policy, doubt, PROGRESS)]


@pytest.mark.parametrize("threshold", [1.5, 0, -0.1, math.nan, math.inf])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=f"`threshold`={threshold}: input should be "):
        Threshold(threshold=threshold)


def test_threshold_is_tuned() -> None:
    knob = Threshold.knobs()["threshold"]
    assert (knob.low, knob.high, knob.scale, knob.lossy) == (0.3, 0.995, "linear", True)
    assert not knob.structural
