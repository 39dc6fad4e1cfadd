"""Replace committed tokens that the model has come to doubt (LLaDA2.1's token editing).

Published loop: LLaDA2.1 `generate` (`editing_threshold`, `max_post_steps`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Revise, Revision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Edit(Revise):
    """A committed token of the block gives way to a candidate of probability over `threshold`.

    A block without masks is evaluated until nothing is replaced, at most `steps` times.
    """

    kind: Literal["edit"] = "edit"
    threshold: float = knob(0.9, ge=0, le=1, low=0.5, high=0.995, lossy=True)
    steps: int = knob(16, ge=0, le=4096, low=0, high=32, lossy=True)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        limit = (1 - self.threshold) / self.threshold if self.threshold > 0 else math.inf
        return {"doubt": limit}

    def select(
        self, rows: Rows, committed: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Rows, Revision]:
        others = rows.offered & ~rows.masked & (rows.ids != rows.tokens) & ~rows.single[:, None]
        replaced = others & (rows.tail < values["doubt"][:, None])
        return rows, Revision(replaced, torch.zeros_like(committed))

    def oracle(
        self,
        rows: Sequence[Prediction],
        committed: set[int],
        progress: BlockProgress,
        memory: Memory,
    ) -> tuple[set[int], set[int]]:
        del committed, progress, memory
        others = [row for row in rows if not row.masked and row.candidate != row.token]
        if len(rows) == 1:
            return set(), set()
        sure = 1 - self.threshold
        return {r.position for r in others if self.threshold * r.tail_mass < sure}, set()

    def settled(self, masks: int, revised: int, unmasked_steps: int) -> bool:
        return (masks == 0 and revised == 0) or unmasked_steps >= self.steps

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        return spec.family.startswith("llada2")
