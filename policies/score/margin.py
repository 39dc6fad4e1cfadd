"""Confidence is the lead over the next best token (Dream's `topk_margin`, arXiv 2508.15487)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from dllmc.policies.axes import Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Margin(Score):
    """The doubt is 1 - (p1 - p2), p2 of the best token but the candidate and the mask.

    Written as (1 - p1) + p2, which keeps what float32 would lose of a p1 next to 1. It is not
    taken for odds: a drawn candidate may lie behind the next, where the margin is negative.
    """

    kind: Literal["margin"] = "margin"
    odds: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"second"})

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        del values
        # Written so that an infinite tail mass gives 1.
        improbability = 1 / (1 + 1 / rows.tail)
        lead = rows.logits - rows.extra["second"]
        return rows.having(doubt=improbability + torch.exp(-lead - rows.tail.log1p()))

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        del progress, memory
        return [row.having(doubt=_doubt(row)) for row in rows]


def _doubt(row: Prediction) -> float:
    barred = [token for token in (row.candidate, row.mask_id) if token is not None]
    second = np.delete(row.logits, barred).max(initial=-math.inf)
    if math.isinf(row.tail_mass):
        return 1.0
    next_best = math.exp(second - row.logit - math.log1p(row.tail_mass))
    return row.tail_mass / (1 + row.tail_mass) + next_best
