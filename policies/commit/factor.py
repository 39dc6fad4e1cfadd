"""Commit more where more is sure (Fast-dLLM's factor rule, as in its code of 2025-11-28).

The k-th surest row (from 0) passes if its probability is at least 1 - factor / (k + 2), the
surest always. In the published loop the last row commits too if it is the only one to fail; this
is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import BlockProgress, Commit, rank

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class Factor(Commit):
    """The longest sure prefix under a threshold that rises with its length."""

    kind: Literal["factor"] = "factor"
    factor: float = knob(1.0, gt=0, low=0.3, high=2.5, lossy=True, allow_inf_nan=False)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"factor": self.factor}

    @staticmethod
    def select(doubt: Tensor, eligible: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        place = rank(doubt, eligible)
        count = eligible.sum(dim=-1)
        # 1 - p of doubt d is d / (1 + d); written so that an infinite doubt gives 1.
        improbability = 1 / (1 + 1 / doubt)
        fails = improbability > values["factor"][:, None] / (place + 2)
        fails &= eligible & (place >= 1)
        last = count - 1
        first_failure = torch.where(fails, place, last[:, None]).amin(dim=-1)
        quirk = (first_failure == 0) | (first_failure == last)
        return place < (first_failure + quirk)[:, None]

    def oracle(self, doubt: Sequence[float], progress: BlockProgress) -> set[int]:
        del progress
        surest_first = sorted(range(len(doubt)), key=lambda index: (doubt[index], index))
        last = len(doubt) - 1
        taken = last
        for place in range(1, len(doubt)):
            if 1 / (1 + doubt[surest_first[place]]) < 1 - self.factor / (place + 2):
                taken = place
                break
        if taken in (0, last):
            taken += 1
        return set(surest_first[:taken])
