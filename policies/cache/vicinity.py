"""Dual cache with a wider window (dInfer's vicinity refresh, arXiv 2510.08666).

Published loop: inclusionAI/dInfer fce4e32, `VicinityCacheIteration`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Refreshing
from dllmc.policies.standing import Evaluation

if TYPE_CHECKING:
    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec


class VicinityCache(Refreshing):
    """Full evaluation at a block's start; then the block with what stands near it.

    Attributes:
        before: Positions before the block that are evaluated with it.
        after: Positions after it.
        warmup: Evaluations of the response without a cache; the next one fills it.
    """

    kind: Literal["vicinity"] = "vicinity"
    before: int = knob(16, ge=0, choices=(0, 4, 8, 16, 32), lossy=True)
    after: int = knob(16, ge=0, choices=(0, 4, 8, 16, 32), lossy=True)
    warmup: int = knob(4, ge=0, low=0, high=8, lossy=True)
    refresh_every: int | None = knob(None, gt=0, choices=(None, 2, 4, 8, 16), lossy=True)

    def window(self, block: tuple[int, int], reach: int) -> tuple[int, int]:
        return max(0, block[0] - self.before), min(reach, block[1] + self.after)

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        if standing.step > 0 and self._warms(standing):
            return Evaluation(range(standing.reach), range(*standing.block), True)
        return super().evaluate(standing, spec)

    def room(self, standing: Standing, spec: DenoiserSpec) -> int:
        return 1 if self._warms(standing) else super().room(standing, spec)

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        start, end = standing.block
        seen, block = range(standing.reach), set(range(start, end))
        full = self.refreshes(standing.step, standing.committed)
        if standing.evaluations <= self.warmup or full:
            return set(seen), {start} if self.commits_first(standing, spec) else block, True
        return {p for p in seen if start - self.before <= p < end + self.after}, block, False

    def _warms(self, standing: Standing) -> bool:
        return standing.evaluations <= self.warmup
