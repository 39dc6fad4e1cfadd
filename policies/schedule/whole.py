"""The whole response at once (LLaDA, arXiv 2502.09992, pure diffusion)."""

from __future__ import annotations

from typing import Literal

from dllmc.policies.axes import Schedule


class Whole(Schedule):
    """One block; with block-causal attention one for each block of it."""

    kind: Literal["whole"] = "whole"

    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        return [(0, response_length)]
