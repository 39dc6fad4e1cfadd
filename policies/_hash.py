"""Uniform numbers from counters, the same in tensors and in plain Python.

The mixer is that of `kernels/noise.py` (Wellons, hash-prospector: 32 bits, two rounds), computed
in int64 with factors under 2^31, so that no product overflows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

    Number = TypeVar("Number", int, Tensor)

_MASK = 0xFFFFFFFF
# Where the noise of a token has the token: no vocabulary is so large.
_NO_TOKEN = _MASK


def uniform(counters: Tensor, positions: Tensor) -> Tensor:
    """A number in (0, 1) for every position, `[N, L]` float32, exact in it.

    Args:
        counters: `[N, 3]` int64: seed, stream, and evaluations before this one.
        positions: `[N, L]` int64.
    """
    seed, stream, nfe = counters[..., None].unbind(1)
    hashed = _hash(seed & _MASK, seed >> 32, stream, positions, nfe)
    # 23 bits and a half.
    return ((hashed >> 9).to(torch.float32) + 0.5) * 2.0**-23


def uniform_of(counters: tuple[int, int, int], position: int) -> float:
    """The same for one position."""
    seed, stream, nfe = counters
    return ((_hash(seed & _MASK, seed >> 32, stream, position, nfe) >> 9) + 0.5) * 2.0**-23


def gumbel(counters: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """The noise that candidates are drawn with, `[N, L, vocab_size]` float32.

    Args:
        counters: `[N, 3]` int64: seed, stream, and steps before this one.
        positions: `[N, L]` int64, of the rows that predict.
        vocab_size: Of the denoiser.
    """
    seed, stream, nfe = counters[..., None].unbind(1)
    rows = _hash_row(seed & _MASK, seed >> 32, stream, positions, nfe)
    tokens = torch.arange(vocab_size, device=positions.device)
    hashed = _mix(rows[..., None] ^ tokens)
    return -torch.log(-torch.log(((hashed >> 9).to(torch.float32) + 0.5) * 2.0**-23))


def gumbel_of(counters: tuple[int, int, int], position: int, vocab_size: int) -> list[float]:
    """The same for one position."""
    seed, stream, nfe = counters
    row = _hash_row(seed & _MASK, seed >> 32, stream, position, nfe)
    hashed = (_mix(row ^ token) for token in range(vocab_size))
    return [-math.log(-math.log(((h >> 9) + 0.5) * 2.0**-23)) for h in hashed]


def _hash(first: Number, *words: Number) -> Number:
    return _mix(_hash_row(first, *words) ^ _NO_TOKEN)


def _hash_row(first: Number, *words: Number) -> Number:
    hashed = _mix(first)
    for word in words:
        hashed = _mix(hashed ^ word)
    return hashed


def _mix(x: Number) -> Number:
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ (x >> 15)
