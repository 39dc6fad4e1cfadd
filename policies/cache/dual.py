"""Dual cache (Fast-dLLM, arXiv 2505.22618): remember what stands before and after the block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Refreshing

if TYPE_CHECKING:
    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec


class DualCache(Refreshing):
    """Full evaluation at a block's start; then the block alone.

    Keys after the block stay those of the last refresh.
    """

    kind: Literal["dual"] = "dual"
    refresh_every: int | None = knob(None, gt=0, choices=(None, 2, 4, 8, 16), lossy=True)

    def window(self, block: tuple[int, int], reach: int) -> tuple[int, int]:
        del reach
        return block

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        start, end = standing.block
        if not self.refreshes(standing.step, standing.committed):
            return set(range(start, end)), set(range(start, end)), False
        offered = {start} if self.commits_first(standing, spec) else set(range(start, end))
        return set(range(standing.reach)), offered, True
