from __future__ import annotations

import numpy as np
import pytest
import torch

from dllmc.kernels import canonical


@pytest.mark.parametrize("shape", [(1,), (3, 63), (2, 5, 33)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.float16, 4e-3), (torch.bfloat16, 4e-2)],
    ids=str,
)
def test_gate_times_its_sigmoid_times_up(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    gate, up = (4 * torch.randn(shape)).to(dtype), torch.randn(shape).to(dtype)
    g, u = gate.double().numpy(), up.double().numpy()
    found = canonical("swiglu")(gate, up)
    assert found.dtype == dtype
    exact = torch.from_numpy(g / (1 + np.exp(-g)) * u)
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


def test_large_gates_saturate() -> None:
    gate, up = torch.tensor([-1000.0, 1000.0]), torch.tensor([2.0, 2.0])
    assert canonical("swiglu")(gate, up).tolist() == [0.0, 2000.0]


def test_layout_does_not_matter() -> None:
    gate, up = torch.randn(5, 7), torch.randn(5, 7)
    turned = canonical("swiglu")(gate.T, up.T)
    assert torch.equal(turned.T, canonical("swiglu")(gate, up))
