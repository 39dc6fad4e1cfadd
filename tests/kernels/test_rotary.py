from __future__ import annotations

import pytest
import torch

from dllmc.kernels import canonical

ROTARY = canonical("rotary")


def tables(length: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    rates = 100.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def turned(x: torch.Tensor, width: int) -> torch.Tensor:
    """Each half-split pair as a complex number, turned by its angle."""
    rates = 100.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * rates
    pairs = torch.complex(x[..., : width // 2], x[..., width // 2 :])
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), dim=-1)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 7, 6), (1, 5, 63, 10)], ids=str)
def test_pairs_turn_by_their_angle(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    cos, sin = tables(shape[2], shape[3], torch.float64)
    torch.testing.assert_close(ROTARY(x, cos, sin), turned(x, shape[3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_tables_broadcast(rank: int) -> None:
    x = torch.randn(2, 3, 7, 4, dtype=torch.float64)
    cos, sin = tables(7, 4, torch.float64)
    shaped = [table[(None,) * (rank - 2)] for table in (cos, sin)]
    assert torch.equal(ROTARY(x, *shaped), ROTARY(x, cos, sin))


def test_each_sequence_may_have_tables_of_its_own() -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    cos, sin = tables(20, 6, torch.float64)
    positions = torch.tensor([[0, 5, 2, 19], [7, 7, 1, 0]])
    both = ROTARY(x, cos[positions][:, None], sin[positions][:, None])
    for row in range(2):
        own = ROTARY(x[row], cos[positions[row]], sin[positions[row]])
        torch.testing.assert_close(both[row], own, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_turns_in_the_precision_of_the_tables(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 33, 8).to(dtype)
    cos, sin = tables(33, 8, torch.float32)
    found = ROTARY(x, cos, sin)
    assert found.dtype == dtype
    # No more than the last rounding: half a unit in the last place.
    exact = turned(x.double(), 8)
    unit = torch.finfo(dtype).eps * exact.abs().clamp_min(torch.finfo(dtype).tiny)
    assert ((found.double() - exact).abs() <= 0.51 * unit + 1e-6).all()
