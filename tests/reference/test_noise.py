from __future__ import annotations

import math

import numpy as np
import pytest

from dllmc.reference.noise import gumbel, hashed

WORD = 2**32


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x21F0AAAD % WORD
    x ^= x >> 15
    x = x * 0x735A2D97 % WORD
    return x ^ (x >> 15)


def expected_hash(*words: int) -> int:
    h = 0
    for word in words:
        h = mix(h ^ word)
    return h


@pytest.mark.parametrize(
    ("seed", "stream", "position", "nfe"),
    [(0, 0, 0, 0), (1, 2, 3, 4), (2**63 - 1, 7, 4095, 1023), (2**32, 0, 5, 0)],
)
def test_hash_is_the_definition_in_unbounded_integers(
    seed: int, stream: int, position: int, nfe: int
) -> None:
    expected = [
        expected_hash(seed % WORD, seed // WORD, stream, position, nfe, token)
        for token in range(130)
    ]
    assert hashed(seed, stream, position, nfe, 130).tolist() == expected


def test_known_values() -> None:
    assert hashed(0, 0, 0, 0, 3).tolist() == [0, 2261973619, 229111015]
    assert hashed(1234567890123, 1, 37, 5, 3).tolist() == [2912121948, 3564467836, 3928681574]


def test_noise_is_gumbel_of_23_bits_of_the_hash() -> None:
    for noise, h in zip(gumbel(9, 0, 3, 2, 50), hashed(9, 0, 3, 2, 50).tolist(), strict=True):
        u = ((h >> 9) + 0.5) / 2**23
        assert float(np.float32(u)) == u
        assert 0 < u < 1
        assert noise == pytest.approx(-math.log(-math.log(u)), rel=1e-12)


def test_noise_has_the_mean_and_variance_of_gumbel() -> None:
    noise = gumbel(3, 0, 10, 0, 200_000)
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.02)


def test_every_counter_matters() -> None:
    base = {"seed": 5, "stream": 0, "position": 7, "nfe": 2, "vocab_size": 64}
    noise = gumbel(**base)
    for name in ("seed", "stream", "position", "nfe"):
        changed = gumbel(**(base | {name: base[name] + 1}))
        assert (changed != noise).sum() > 60
        assert abs(np.corrcoef(noise, changed)[0, 1]) < 0.5
