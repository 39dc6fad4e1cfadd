"""Gumbel noise from a counter: the same wherever, and in whatever order, it is asked for.

The generators of frameworks do not agree with one another, nor across versions; this integer
hash does. Its mixing function is that of H. Wellons' hash prospector (low bias, two rounds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A bijection of 32-bit integers; numpy's arrays wrap modulo 2^32."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x21F0AAAD)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x735A2D97)
    return x ^ (x >> np.uint32(15))


def hashed(seed: int, stream: int, position: int, nfe: int, vocab_size: int) -> NDArray[np.uint32]:
    """One hash per token of the vocabulary, `[vocab_size]`."""
    h = mix(np.array([seed & 0xFFFFFFFF], dtype=np.uint32))
    for word in (seed >> 32, stream, position, nfe):
        h = mix(h ^ np.uint32(word))
    return mix(h ^ np.arange(vocab_size, dtype=np.uint32))


def gumbel(
    seed: int, stream: int, position: int, nfe: int, vocab_size: int
) -> NDArray[np.float64]:
    """Gumbel noise of every token at one position of one evaluation, `[vocab_size]`.

    Args:
        seed: Of the decoding configuration, under 2^63.
        stream: Tells the sequences of a batch apart.
        position: On the canvas.
        nfe: Evaluations of this sequence before this one.
        vocab_size: Width of the logits.
    """
    # 23 bits and a half fit float32, so that u is the same number in float32 and float64.
    u = ((hashed(seed, stream, position, nfe, vocab_size) >> np.uint32(9)) + 0.5) * 2.0**-23
    noise: NDArray[np.float64] = -np.log(-np.log(u))
    return noise
