from __future__ import annotations

import math

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.factor import Factor
from dllmc.policies.progress import commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

PROGRESS = BlockProgress(step=0, masks=8, blocks=1)
SURE, UNSURE = 0.999, 0.01


@pytest.mark.parametrize(
    ("probabilities", "committed"),
    [
        # The surest never fails; with factor 1 the next must reach 2/3, 3/4, 4/5 ...
        ([UNSURE] * 4, {0}),
        ([SURE, UNSURE, UNSURE], {0}),
        ([0.1, 0.7, 0.1, 0.1], {1}),
        ([0.70, 0.70, 0.1, 0.1], {0, 1}),
        ([0.70, 0.65, 0.1, 0.1], {0}),
        ([0.76, 0.1, 0.76, 0.76, 0.1, 0.1], {0, 2, 3}),
        ([0.76, 0.1, 0.76, 0.74, 0.1, 0.1], {0, 2}),
        ([SURE] * 5, {0, 1, 2, 3, 4}),
        # Published: what is alone in failing, as the last, commits too.
        ([SURE, SURE, UNSURE], {0, 1, 2}),
        ([UNSURE, SURE, SURE, SURE], {0, 1, 2, 3}),
        ([UNSURE, UNSURE], {0, 1}),
        ([UNSURE], {0}),
    ],
)
def test_longest_sure_prefix_as_published(probabilities: list[float], committed: set[int]) -> None:
    doubt = [(1 - p) / p for p in probabilities]
    assert Factor(factor=1.0).oracle(predictions(doubt), PROGRESS) == committed
    values = {"factor": torch.tensor([1.0])}
    selected = commit_rows(Factor(), rows([doubt]), values)
    assert set(selected[0].nonzero().flatten().tolist()) == committed


def test_rows_that_are_not_eligible_do_not_count() -> None:
    doubt = torch.tensor([[0.0, 0.0, 99.0, 0.0, 99.0]])
    eligible = torch.tensor([[0, 1, 1, 1, 0]]).bool()
    selected = commit_rows(Factor(), rows(doubt, eligible), {"factor": torch.tensor([1.0])})
    assert selected.int().tolist() == [[0, 1, 1, 1, 0]]


def test_a_smaller_factor_asks_for_more() -> None:
    doubt = predictions([(1 - p) / p for p in (0.9, 0.82, 0.82, 0.82, 0.1, 0.1)])
    taken = [len(Factor(factor=factor).oracle(doubt, PROGRESS)) for factor in (0.5, 0.7, 1.0, 6.0)]
    assert taken == [1, 2, 4, 6]


@pytest.mark.parametrize("factor", [0, -1, math.nan, math.inf])
def test_bad_factor_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match=f"`factor`={factor}: input should be "):
        Factor(factor=factor)


def test_factor_is_tuned() -> None:
    knob = Factor.knobs()["factor"]
    assert (knob.low, knob.high, knob.scale, knob.lossy) == (0.3, 2.5, "linear", True)
    assert not knob.structural
