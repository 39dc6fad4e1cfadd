from __future__ import annotations

import math

import pytest
import torch
from rows.made import MASK, matching, predictions

from dllmc.policies.score.margin import Margin
from dllmc.policies.standing import BlockProgress

PROGRESS = BlockProgress(step=0, masks=4, blocks=1)


def judged(logits: list[list[float]], dtype: torch.dtype = torch.float64) -> list[float]:
    evaluated = matching(torch.tensor([logits]).double(), needs=["second"], dtype=dtype)
    ours = Margin().judge(evaluated.rows, {}).doubt[0].tolist()
    theirs = Margin().oracle(evaluated.predictions[0], PROGRESS, {})
    assert ours == pytest.approx([row.doubt for row in theirs], rel=1e-5)
    return ours


def test_doubt_is_what_the_lead_lacks_of_1() -> None:
    # The mask, which is token 4, weighs, but is never the next best.
    probabilities = [0.4, 0.1, 0.2, 0.05, 0.25]
    assert judged([[math.log(p) for p in probabilities]]) == [pytest.approx(1 - (0.4 - 0.2))]


def test_ties_have_no_lead() -> None:
    assert judged([[0.0, 0.0, -1000.0, -1000.0, -1000.0]]) == [1.0]


def test_tiny_doubts_are_told_apart_in_float32() -> None:
    # 1 - (p1 - p2) is 1e-12 and 4e-12, and p1 itself rounds to 1.
    far = [[30.0, 30.0 - math.log(2 / p), *[-1000.0] * 3] for p in (1e-12, 4e-12)]
    assert judged(far, torch.float32) == pytest.approx([1e-12, 4e-12], rel=1e-4)


def test_an_infinite_tail_leaves_no_lead() -> None:
    # The mask is more probable than float64 can say.
    assert judged([[0.0, -1.0, -2.0, -3.0, 1000.0]]) == [1.0]


def test_a_drawn_candidate_may_lie_behind_the_next() -> None:
    drawn = matching(torch.tensor([[[1.0, 0.0, -9.0, -9.0, -9.0]]]).double()).predictions[0][0]
    behind = drawn.having(candidate=1, logit=0.0, tail_mass=math.e + 3 * math.exp(-9))
    (row,) = Margin().oracle([behind], PROGRESS, {})
    p1, p2 = 1 / (1 + behind.tail_mass), math.e / (1 + behind.tail_mass)
    assert row.doubt == pytest.approx(1 - (p1 - p2))
    assert row.doubt > 1


def test_a_prediction_that_knows_no_mask_leaves_none_out() -> None:
    (known,) = predictions([3.0])
    row = known.having(mask_id=None)
    assert Margin().oracle([row], PROGRESS, {})[0].doubt == pytest.approx(0.75 + 0.75)
    assert known.mask_id == MASK
    assert Margin().oracle([known], PROGRESS, {})[0].doubt == pytest.approx(0.75)
