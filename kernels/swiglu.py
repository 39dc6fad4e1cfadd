"""The gated activation of Llama-style feed-forward layers (arXiv 2002.05202)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from dllmc.kernels._library import define

if TYPE_CHECKING:
    from torch import Tensor


@define("swiglu(Tensor gate, Tensor up) -> Tensor")
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, elementwise."""
    return F.silu(gate) * up
