"""Counter-based noise: the same number for the same counters, whatever computes it.

The mixer is a two-round multiply-xorshift hash of 32 bits (Wellons, hash-prospector). It is
computed in int64 with factors under 2^31, so that no product overflows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def gumbel(seed: Tensor, stream: Tensor, positions: Tensor, nfe: Tensor, vocab: int) -> Tensor:
    """Standard Gumbel noise `[B, R, vocab]` float32.

    Args:
        seed: `[B]` int64, not negative.
        stream: `[B]` int64, tells apart sequences of one seed.
        positions: `[B, R]` int64, canvas positions.
        nfe: `[B]` int64, evaluations that each sequence has had before.
        vocab: Tokens of the vocabulary.
    """
    h = _mix(seed & _MASK)
    h = _mix(h ^ (seed >> 32))
    h = _mix(h ^ stream)
    h = _mix(h[:, None] ^ positions)
    h = _mix(h ^ nfe[:, None])
    tokens = torch.arange(vocab, device=positions.device)
    h = _mix(h[..., None] ^ tokens)
    # 23 bits and a half: exact in float32, and never 0 or 1.
    uniform = ((h >> 9).to(torch.float32) + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))
