from __future__ import annotations

import numpy as np
import pytest
import torch

from dllmc.kernels import canonical, implementation, implementations

SHAPES = [(1,), (3, 63), (2, 5, 33)]


def exact(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    values, scale = x.double().numpy(), weight.double().numpy()
    size = np.sqrt((values**2).sum(-1, keepdims=True) / values.shape[-1] + eps)
    return torch.from_numpy(values / size * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)],
    ids=str,
)
def test_rows_have_unit_mean_square_times_weight(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    x = (3 * torch.randn(shape)).to(dtype)
    weight = torch.randn(shape[-1]).to(dtype)
    for name in implementations("rms_norm"):
        y = implementation("rms_norm", name)(x, weight, 1e-5)
        assert y.dtype == dtype
        torch.testing.assert_close(
            y.double(), exact(x, weight, 1e-5), rtol=tolerance, atol=tolerance
        )


def test_half_precision_squares_in_float32() -> None:
    # 300 squared is more than a float16 can hold.
    x = torch.full((1, 8), 300.0, dtype=torch.float16)
    y = canonical("rms_norm")(x, torch.ones(8, dtype=torch.float16), 1e-5)
    assert y.tolist() == [[1.0] * 8]


def test_eps_keeps_zeros_finite() -> None:
    y = canonical("rms_norm")(torch.zeros(2, 4), torch.ones(4), 1e-6)
    assert y.tolist() == [[0.0] * 4] * 2


def test_layout_does_not_matter() -> None:
    x, weight = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    turned = canonical("rms_norm")(x.T, weight, 1e-5)
    assert torch.equal(turned, canonical("rms_norm")(x.T.contiguous(), weight, 1e-5))
