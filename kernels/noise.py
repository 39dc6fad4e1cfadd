"""Counter-based noise: the same number for the same counters, whatever computes it.

The mixer is a two-round multiply-xorshift hash of 32 bits (Wellons, hash-prospector). It is
computed in int64 with factors under 2^31, so that no product overflows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.kernels._library import canonical, opaque

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def _shape(seed: Tensor, stream: Tensor, positions: Tensor, nfe: Tensor) -> Tensor:
    del seed, stream, nfe
    return torch.empty_like(positions)


# Each round reads its input three times over, and Inductor inlines rounds into one another: seen
# through, these five made a sampled step take 25 s to compile instead of 2.4.
@opaque("row_hash(Tensor seed, Tensor stream, Tensor positions, Tensor nfe) -> Tensor", _shape)
def row_hash(seed: Tensor, stream: Tensor, positions: Tensor, nfe: Tensor) -> Tensor:
    """Hash `[B, R]` int64 of everything but the token; arguments as in `gumbel`."""
    h = _mix(seed & _MASK)
    h = _mix(h ^ (seed >> 32))
    h = _mix(h ^ stream)
    h = _mix(h[:, None] ^ positions)
    return _mix(h ^ nfe[:, None])


def gumbel(seed: Tensor, stream: Tensor, positions: Tensor, nfe: Tensor, vocab: int) -> Tensor:
    """Standard Gumbel noise `[B, R, vocab]` float32.

    Args:
        seed: `[B]` int64, not negative.
        stream: `[B]` int64, tells apart sequences of one seed.
        positions: `[B, R]` int64, canvas positions.
        nfe: `[B]` int64, evaluations that each sequence has had before.
        vocab: Tokens of the vocabulary.
    """
    rows = canonical("row_hash")(seed, stream, positions, nfe)
    tokens = torch.arange(vocab, device=positions.device)
    h = _mix(rows[..., None] ^ tokens)
    # 23 bits and a half: exact in float32, and never 0 or 1.
    uniform = ((h >> 9).to(torch.float32) + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))
