from __future__ import annotations

import math

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)


def test_everything_sure_enough_commits() -> None:
    asked = predictions([(1 - p) / p for p in (0.9, 0.4, 0.6)])
    assert Threshold(threshold=0.5).oracle(asked, PROGRESS) == {0, 2}


def test_the_threshold_itself_is_sure_enough() -> None:
    policy = Threshold(threshold=0.25)
    assert policy.oracle(predictions([3.0, 3.0000001]), PROGRESS) == {0}
    values = {"doubt": torch.tensor([policy.values(PROGRESS)["doubt"]])}
    selected = policy.select(rows([[3.0, 3.001]]), values)
    assert selected.tolist() == [[True, False]]


@pytest.mark.parametrize("doubt", [[2.0, 1.0, 1.0], [math.inf, math.inf], [1e-30, 0.5]])
def test_at_a_threshold_of_1_only_what_has_no_doubt_commits_beside_the_surest(
    doubt: list[float],
) -> None:
    policy = Threshold(threshold=1)
    asked = predictions(doubt)
    assert policy.oracle(asked, PROGRESS) == set()
    assert policy.oracle(predictions([*doubt, 0.0]), PROGRESS) == {len(doubt)}
    values = {"doubt": torch.tensor([policy.values(PROGRESS)["doubt"]])}
    committed = commit_rows(policy, rows([doubt]), values)
    assert committed[0].nonzero().flatten().tolist() == [*commit_oracle(policy, asked, PROGRESS)]


@pytest.mark.parametrize("threshold", [1.5, 0, -0.1, math.nan, math.inf])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match=f"`threshold`={threshold}: input should be "):
        Threshold(threshold=threshold)


def test_threshold_is_tuned() -> None:
    knob = Threshold.knobs()["threshold"]
    assert (knob.low, knob.high, knob.scale, knob.lossy) == (0.3, 0.995, "linear", True)
    assert not knob.structural
