"""Rotary position embedding, half-split layout (arXiv 2104.09864)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.kernels._library import define

if TYPE_CHECKING:
    from torch import Tensor


@define("rotary(Tensor x, Tensor cos, Tensor sin) -> Tensor")
def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x` `[B, H, W, D]` by tables that broadcast to it, in the tables' dtype."""
    wide = x.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
