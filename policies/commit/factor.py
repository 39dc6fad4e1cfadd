"""Commit more where more is sure (Fast-dLLM's factor rule, as in its code of 2025-11-28).

The k-th surest row (from 0) passes if its probability is at least 1 - factor / (k + 2), the
surest always. In the published loop the last row commits too if it is the only one to fail; this
is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit
from dllmc.policies.progress import rank, surest_first

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Factor(Commit):
    """The longest sure prefix under a threshold that rises with its length."""

    needs_odds: ClassVar[bool] = True
    kind: Literal["factor"] = "factor"
    factor: float = knob(1.0, gt=0, low=0.3, high=2.5, lossy=True, allow_inf_nan=False)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"factor": self.factor}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        place = rank(rows)
        count = rows.eligible.sum(dim=-1)
        # 1 - p of doubt d is d / (1 + d); written so that an infinite doubt gives 1.
        improbability = 1 / (1 + 1 / rows.doubt)
        fails = improbability > values["factor"][:, None] / (place + 2)
        fails &= rows.eligible & (place >= 1)
        last = count - 1
        first_failure = torch.where(fails, place, last[:, None]).amin(dim=-1)
        quirk = (first_failure == 0) | (first_failure == last)
        return place < (first_failure + quirk)[:, None]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del progress
        ordered, last = surest_first(rows), len(rows) - 1
        taken = last
        for place in range(1, len(rows)):
            if 1 / (1 + rows[ordered[place]].doubt) < 1 - self.factor / (place + 2):
                taken = place
                break
        if taken in (0, last):
            taken += 1
        return set(ordered[:taken])
