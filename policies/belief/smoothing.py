"""Masks that carry what was predicted for them (dInfer's IterSmooth, arXiv 2510.08666).

Published loop: inclusionAI/dInfer fce4e32, `IterationSmooth`. There all masks that are evaluated
carry it; here those of the block, as no statistics are made of others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies._divergence import tops, tops_of
from dllmc.policies.belief._mixing import Mixing, mixing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Smoothing(Mixing):
    """The mean embedding of a row's prediction is added to that of its mask.

    The mask keeps its whole weight. The prediction's grows with the evaluations of the response
    from `initial` by `growth` each, up to `weight`. Published with the commit policy
    `annealed_threshold`.
    """

    kind: Literal["smoothing"] = "smoothing"
    weight: float = knob(0.3, ge=0, low=0.05, high=0.4, lossy=True, allow_inf_nan=False)
    initial: float = knob(0.15, ge=0, low=0.0, high=0.3, lossy=True, allow_inf_nan=False)
    growth: float = knob(0.02, ge=0, low=0.0, high=0.05, lossy=True, allow_inf_nan=False)

    def now(self, progress: BlockProgress) -> float:
        """Weight of what this evaluation predicts."""
        return min(self.initial + self.growth * progress.evaluations, self.weight)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        return {"weight": self.now(progress)}

    def observe(self, rows: Rows, values: Mapping[str, Tensor]) -> tuple[Rows, Tensor | None]:
        weight = values["weight"][:, None]
        ids, logps = tops(rows, self.top)
        shares = logps.exp()
        rest = (1 - shares.sum(-1)).clamp(min=0)
        return mixing(rows, 1 + weight * rest, ids, weight[..., None] * shares), None

    def mixtures(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> tuple[dict[int, dict[int, float]], bool]:
        del memory
        weight, found = self.now(progress), {}
        for row in rows:
            if row.masked:
                shares = {v: math.exp(p) for v, p in tops_of(row, self.top).items()}
                of_mask = 1 + weight * max(1 - sum(shares.values()), 0)
                weights = {v: weight * share for v, share in shares.items()}
                found[row.position] = {row.token: of_mask} | weights
        return found, False
