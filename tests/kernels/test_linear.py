from __future__ import annotations

import pytest
import torch

from dllmc.kernels import default_implementations, implementation, implementations
from dllmc.kernels.linear import onednn_takes

# On a CPU Triton's runs in its interpreter only: triton/test_linear.py.
NAMES = implementations("linear") - {"triton"}
DTYPES = [d for d in (torch.float32, torch.bfloat16) if onednn_takes(d)]


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = torch.einsum("...d,ed->...e", x.double(), weight.double())
    return product if bias is None else product + bias.double()


@pytest.mark.parametrize("rows", [1, 2, 7, 32, 63])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_every_implementation_is_the_product(rows: int, dtype: torch.dtype, biased: bool) -> None:
    x, weight = torch.randn(2, rows, 33).to(dtype), torch.randn(17, 33).to(dtype)
    bias = torch.randn(17).to(dtype) if biased else None
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    for name in NAMES:
        found = implementation("linear", name)(x, weight, bias)
        assert found.dtype == dtype
        torch.testing.assert_close(
            found.double(), exact(x, weight, bias), rtol=tolerance, atol=20 * tolerance
        )


@pytest.mark.skipif(not DTYPES, reason="oneDNN is not available here")
def test_a_weight_changed_in_place_is_packed_again() -> None:
    onednn = implementation("linear", "onednn")
    x, weight = torch.randn(3, 8), torch.randn(5, 8)
    first = onednn(x, weight, None)
    weight.mul_(2)
    torch.testing.assert_close(onednn(x, weight, None), 2 * first, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not DTYPES, reason="oneDNN is not available here")
def test_a_row_does_not_depend_on_how_many_there_are() -> None:
    onednn = implementation("linear", "onednn")
    x, weight = torch.randn(1, 40, 64), torch.randn(48, 64)
    whole = onednn(x, weight, None)
    for rows in (1, 2, 9, 31):
        torch.testing.assert_close(onednn(x[:, :rows], weight, None), whole[:, :rows])


def test_double_precision_is_never_packed() -> None:
    assert default_implementations(torch.device("cpu"), torch.float64) == {}
    assert not onednn_takes(torch.float64)
    assert not onednn_takes(torch.float16)
