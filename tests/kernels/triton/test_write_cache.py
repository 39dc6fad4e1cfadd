from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dllmc.kernels import canonical, implementation
from dllmc.kernels._triton.configurations import shipped
from dllmc.kernels._triton.write_cache import launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def same(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """The plain operator writes the same, and neither anything else."""
    expected = keys.clone(), values.clone()
    canonical("write_cache")(k, v, *expected, slots)
    found = keys.to(DEVICE), values.to(DEVICE)
    implementation("write_cache", "triton")(k.to(DEVICE), v.to(DEVICE), *found, slots.to(DEVICE))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("groups", [1, 3, 100])
def test_heads_of_any_number_and_width(groups: int, dtype: torch.dtype) -> None:
    k, v = torch.randn(2, groups, 5, 24).to(dtype), torch.randn(2, groups, 5, 7).to(dtype)
    keys, values = torch.randn(2, groups, 9, 24).to(dtype), torch.randn(2, groups, 9, 7).to(dtype)
    slots = torch.stack([torch.randperm(9)[:5] for _ in range(2)])
    same(k, v, keys, values, slots)


def test_tensors_may_be_views_of_others() -> None:
    k = torch.randn(2, 3, 4, 40).transpose(1, 2)[..., ::2]
    v = torch.randn(2, 4, 16, 3).transpose(2, 3)
    keys, values = torch.randn(2, 11, 4, 20).transpose(1, 2), torch.randn(2, 4, 11, 16)
    slots = torch.tensor([[3, 0, 10]]).expand(2, 3)
    same(k, v, keys, values, slots)


def test_a_row_beyond_the_cache_is_left_out() -> None:
    k, cache = torch.randn(1, 2, 3, 16), torch.zeros(1, 2, 4, 16)
    there = cache[:, :, 1:3].to(DEVICE)
    whole = there._base if there._base is not None else there
    launch(k.to(DEVICE), k.to(DEVICE), there, there, torch.tensor([[2, 1, -1]]).to(DEVICE))
    assert torch.equal(there[:, :, 1].cpu(), k[:, :, 1])
    assert int((whole != 0).any(-1).sum()) == 2


@pytest.mark.parametrize("config", shipped("write_cache"), ids=str)
def test_every_configuration_that_is_shipped(config: dict[str, int]) -> None:
    k, keys = torch.randn(1, 6, 2, 64), torch.zeros(1, 6, 5, 64)
    found = keys.to(DEVICE), keys.clone().to(DEVICE)
    launch(k.to(DEVICE), k.to(DEVICE), *found, torch.tensor([[4, 1]]).to(DEVICE), config=config)
    for one in found:
        assert torch.equal(one[:, :, [4, 1]].cpu(), k)
