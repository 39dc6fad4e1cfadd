from __future__ import annotations

import pytest
import torch

from dllmc.kernels import canonical, implementation, implementations

GATHER = canonical("gather_rows")


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64], ids=str)
def test_each_sequence_has_rows_of_its_own(axis: int, dtype: torch.dtype) -> None:
    x = torch.randint(-100, 100, (3, 7, 5, 9)).to(dtype)
    length = x.shape[axis]
    rows = torch.randint(length, (3, 4))
    for which in implementations("gather_rows"):
        found = implementation("gather_rows", which)(x, rows, axis)
        for sequence in range(3):
            expected = x[sequence].index_select(axis - 1, rows[sequence])
            assert torch.equal(found[sequence], expected)


def test_a_row_may_be_picked_twice_and_in_any_order() -> None:
    x = torch.arange(6).view(1, 6)
    assert GATHER(x, torch.tensor([[5, 0, 5, 3]]), 1).tolist() == [[5, 0, 5, 3]]


def test_one_row() -> None:
    x = torch.randn(2, 1, 3)
    assert torch.equal(GATHER(x, torch.zeros(2, 1, dtype=torch.int64), 1), x)


def test_layout_does_not_matter() -> None:
    x = torch.randn(4, 5, 3).transpose(1, 2)
    rows = torch.tensor([[2, 0]] * 4)
    assert torch.equal(GATHER(x, rows, 1), GATHER(x.contiguous(), rows, 1))
