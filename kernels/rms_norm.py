"""Root-mean-square normalisation (arXiv 1910.07467)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.kernels._library import define

if TYPE_CHECKING:
    from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


@define("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`[..., D]` scaled to unit mean square, times `weight` `[D]`; in float32 or better."""
    wide = x.float() if x.dtype in HALF else x
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return weight * wide.to(x.dtype)
