"""Fixed blocks from left to right (LLaDA, arXiv 2502.09992, semi-autoregressive remasking)."""

from __future__ import annotations

from typing import Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Schedule


class Blocks(Schedule):
    """Blocks of `block_length` positions; the last one may be shorter."""

    kind: Literal["blocks"] = "blocks"
    block_length: int = knob(32, gt=0, choices=(4, 8, 16, 32, 64), lossy=True, structural=True)

    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        starts = range(0, response_length, self.block_length)
        return [(start, min(start + self.block_length, response_length)) for start in starts]
