from __future__ import annotations

import math

import pytest
import torch
from rows.made import matching

from dllmc.policies.score.entropy import Entropy
from dllmc.policies.standing import BlockProgress

PROGRESS = BlockProgress(step=0, masks=4, blocks=1)


def judged(logits: list[list[float]], dtype: torch.dtype = torch.float64) -> list[float]:
    evaluated = matching(torch.tensor([logits]).double(), needs=["entropy"], dtype=dtype)
    ours = Entropy().judge(evaluated.rows, {}).doubt[0].tolist()
    theirs = Entropy().oracle(evaluated.predictions[0], PROGRESS, {})
    assert ours == pytest.approx([row.doubt for row in theirs], rel=1e-5)
    return ours


def test_doubt_is_the_entropy_in_nats() -> None:
    probabilities = [0.5, 0.25, 0.125, 0.0625, 0.0625]
    logits = [math.log(p) for p in probabilities]
    assert judged([logits, [0.0] * 5]) == pytest.approx([1.875 * math.log(2), math.log(5)])


def test_the_mask_counts() -> None:
    # Sure of the mask, and so sure of nothing that may commit.
    assert judged([[0.0, -1.0, -2.0, -3.0, 1000.0]]) == [0.0]


def test_tiny_entropies_are_told_apart_in_float32() -> None:
    near, far = judged([[d, 0.0, *[-1000.0] * 3] for d in (30.0, 40.0)], torch.float32)
    assert (near, far) == pytest.approx((31 * math.exp(-30), 41 * math.exp(-40)), rel=1e-4)
