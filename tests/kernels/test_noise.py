from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from dllmc.kernels import canonical
from dllmc.kernels.noise import gumbel
from dllmc.reference import noise as reference

COUNTER = st.integers(0, 2**20)
SEEDS = st.integers(0, 2**63 - 1) | st.sampled_from([0, 2**31, 2**32 - 1, 2**32, 2**63 - 1])


def one(value: int) -> torch.Tensor:
    return torch.tensor([value])


@given(SEEDS, COUNTER, COUNTER, COUNTER, st.integers(1, 200))
def test_noise_is_that_of_the_reference(
    seed: int, stream: int, position: int, nfe: int, vocab: int
) -> None:
    found = gumbel(one(seed), one(stream), one(position)[None], one(nfe), vocab)
    assert found.dtype == torch.float32
    expected = reference.gumbel(seed, stream, position, nfe, vocab)
    # float32 logarithms: near 0 the noise has an absolute error of a few units of 1.
    assert_allclose(found[0, 0].double().numpy(), expected, rtol=2e-6, atol=1e-6)


@given(SEEDS, COUNTER, st.lists(COUNTER, min_size=1, max_size=9), COUNTER)
def test_row_hashes_are_bit_for_bit_those_of_the_reference(
    seed: int, stream: int, positions: list[int], nfe: int
) -> None:
    row_hash = canonical("row_hash")
    found = row_hash(one(seed), one(stream), torch.tensor([positions]), one(nfe))
    for position, h in zip(positions, found[0].tolist(), strict=True):
        # Of token 0 only the last round is left.
        assert reference.mix(np.array([h], dtype=np.uint32)).tolist() == [
            reference.hashed(seed, stream, position, nfe, 1).item()
        ]


def test_many_counters_at_once() -> None:
    seeds, streams = torch.tensor([3, 2**63 - 1, 2**40]), torch.tensor([0, 1, 9])
    positions = torch.tensor([[0, 1, 63], [5, 5, 4095], [7, 0, 2]])
    nfe = torch.tensor([0, 31, 1023])
    found = gumbel(seeds, streams, positions, nfe, 130)
    assert found.shape == (3, 3, 130)
    for b in range(3):
        for r in range(3):
            expected = reference.gumbel(
                int(seeds[b]), int(streams[b]), int(positions[b, r]), int(nfe[b]), 130
            )
            assert_allclose(found[b, r].numpy(), expected, rtol=2e-6, atol=1e-6)


def test_noise_is_finite_whatever_the_hash() -> None:
    found = gumbel(torch.arange(64), one(0).expand(64), torch.zeros(64, 1).long(), one(0), 4096)
    assert found.isfinite().all()
    assert found.min() > -math.log(math.log(2**25))
    assert found.max() < math.log(2**25)


@pytest.mark.parametrize("nfe", [0, 5])
def test_sequences_and_rows_have_noise_of_their_own(nfe: int) -> None:
    positions = torch.arange(6).expand(2, 6)
    found = gumbel(torch.tensor([1, 1]), torch.tensor([0, 1]), positions, one(nfe).expand(2), 64)
    flat = found.reshape(12, 64)
    correlation = np.corrcoef(flat.numpy()) - np.eye(12)
    assert np.abs(correlation).max() < 0.5
