"""No cache: every evaluation covers the whole canvas."""

from __future__ import annotations

from typing import Literal

from dllmc.policies.axes import Cache


class NoCache(Cache):
    """What quality is compared with."""

    kind: Literal["none"] = "none"
    refresh_every: None = None

    def window(self, block: tuple[int, int], length: int) -> tuple[int, int]:
        del block
        return 0, length

    def oracle(self, position: int, block: tuple[int, int], length: int) -> bool:
        del position, block, length
        return True
