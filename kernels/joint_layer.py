"""The layer of a joint sampler: hidden states that have seen which tokens were just committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import define
from dllmc.kernels.rms_norm import rms_norm
from dllmc.kernels.rotary import rotary

if TYPE_CHECKING:
    from torch import Tensor

_EPS = 1e-6


@define(
    "joint_layer(Tensor hidden, Tensor embedded, Tensor positions, Tensor offered, "
    "Tensor[] weights, int heads, float theta) -> Tensor"
)
def joint_layer(
    hidden: Tensor,
    embedded: Tensor,
    positions: Tensor,
    offered: Tensor,
    weights: list[Tensor],
    heads: int,
    theta: float,
) -> Tensor:
    """One transformer layer over the rows of a block, added to their hidden states (ADJUST).

    Rows attend to one another in both directions, rotated by position. With `out` of zeros the
    hidden states stay what they are.

    Args:
        hidden: `[B, R, D]`, what the denoiser's head was given.
        embedded: `[B, R, D]`, embeddings of the tokens that stand there now.
        positions: `[B, R]` int64, on the canvas.
        offered: `[B, R]` bool, rows that are no padding.
        weights: `fuse` `[D, 2 D]`, `norm_attention` `[D]`, `qkv` `[3 D, D]`, `attention_out`
            `[D, D]`, `norm_mlp` `[D]`, `gate_up` `[2 F, D]`, `down` `[D, F]`, `out` `[D, D]`.
        heads: Attention heads; they divide D.
        theta: Base of the rotation.

    Returns:
        `[B, R, D]` in the dtype of `fuse`.
    """
    fuse, norm_attention, qkv, attention_out, norm_mlp, gate_up, down, out = weights
    hidden = hidden.to(fuse.dtype)
    x = F.linear(torch.cat((hidden, embedded.to(fuse.dtype)), dim=-1), fuse)
    projected = F.linear(rms_norm(x, norm_attention, _EPS), qkv).unflatten(-1, (3, heads, -1))
    q, k, v = projected.permute(2, 0, 3, 1, 4).unbind(0)
    wide = torch.promote_types(q.dtype, torch.float32)
    cos, sin = (table.to(wide) for table in _tables(positions, q.shape[-1], theta))
    # A sequence without rows, as in the padding of a batch, attends to all: never to nothing.
    seen = (offered | ~offered.any(-1, keepdim=True))[:, None, None]
    mixed = F.scaled_dot_product_attention(rotary(q, cos, sin), rotary(k, cos, sin), v, seen)
    x = x + F.linear(mixed.transpose(1, 2).flatten(2), attention_out)
    gate, up = F.linear(rms_norm(x, norm_mlp, _EPS), gate_up).chunk(2, dim=-1)
    return hidden + F.linear(x + F.linear(F.silu(gate) * up, down), out)


def _tables(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[B, 1, R, width]` in float64."""
    places = torch.arange(0, width, 2, device=positions.device, dtype=torch.float64)
    angles = positions[..., None].double() * theta ** (-places / width)
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos(), angles.sin()
