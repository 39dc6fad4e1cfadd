from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dllmc.kernels import canonical, implementation
from dllmc.kernels._triton.configurations import shipped
from dllmc.kernels._triton.linear import launch
from dllmc.kernels.int4_linear import quantise_int4
from dllmc.kernels.int8_linear import quantise_int8

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3}
SMALL = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2}


def drawn(
    dtype: torch.dtype, rows: int, outputs: int, depth: int
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (rows, depth), (outputs, depth), (outputs,)
    x, weight, bias = (torch.randn(shape).to(dtype) for shape in shapes)
    return x, weight, bias


def moved(*given: Tensor | None) -> list[Tensor | None]:
    return [None if each is None else each.to(DEVICE) for each in given]


def same(found: Tensor, exact: Tensor, tolerance: float) -> None:
    scale = float(exact.abs().max())
    torch.testing.assert_close(found.cpu().double(), exact, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 70, 45), (17, 33, 128), (130, 40, 70)], ids=str)
def test_odd_sizes_as_in_float64(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    x, weight, bias = drawn(dtype, *sizes)
    for given in (bias, None):
        found = implementation("linear", "triton")(*moved(x, weight, given))
        wide = None if given is None else given.double()
        exact = torch.nn.functional.linear(x.double(), weight.double(), wide)
        assert found.dtype == dtype
        same(found, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("splits", [1, 2, 3, 5])
def test_inputs_that_are_split_add_up_to_the_same(splits: int) -> None:
    x, weight, bias = drawn(torch.float32, 5, 40, 100)
    found = launch(*moved(x, weight, bias), config={**SMALL, "SPLITS": splits})
    same(found, x.double() @ weight.double().T + bias.double(), 1e-5)


def test_sums_of_parts_are_rounded_once() -> None:
    x, weight, bias = drawn(torch.float16, 4, 33, 4096)
    x, weight, bias = x / 4, weight / 4, 40 * bias
    found = launch(*moved(x, weight, bias), config={**SMALL, "BLOCK_K": 1024, "SPLITS": 4})
    exact = x.double() @ weight.double().T + bias.double()
    # Half a unit in the last place, and the little that float32 sums lose.
    error = (found.cpu().double() - exact).abs() / exact.abs().clamp(min=1)
    assert error.max() < 2.0**-11 * 1.05


@pytest.mark.parametrize(
    "config", [*shipped("linear"), *shipped("linear_float32")], ids=lambda one: str(one)
)
def test_every_configuration_that_is_shipped(config: dict[str, int]) -> None:
    x, weight, bias = drawn(torch.float32, 20, 130, 150)
    same(
        launch(*moved(x, weight, bias), config=config),
        x.double() @ weight.double().T + bias.double(),
        1e-5,
    )


def test_tensors_may_lie_otherwise_in_memory() -> None:
    wide = torch.randn(3, 8, 100)
    weight = torch.randn(60, 40)
    rows = wide[:, ::2, 10:70]
    found = implementation("linear", "triton")(*moved(rows, weight.T, None))
    same(found, rows.double() @ weight.double(), 1e-5)
    alone = wide[0, :, 10:70]
    found = implementation("linear", "triton")(*moved(alone, weight.T, None))
    same(found, alone.double() @ weight.double(), 1e-5)


def test_nothing_of_no_rows() -> None:
    found = implementation("linear", "triton")(*moved(torch.randn(0, 4), torch.randn(7, 4), None))
    assert found.shape == (0, 7)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", [(2, 70, 45), (19, 33, 256)], ids=str)
def test_weights_of_8_bits_as_in_float64(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, bias = drawn(dtype, *sizes)
    rounded, scales = quantise_int8(weight)
    for given in (bias, None):
        wide = None if given is None else given.double()
        exact = canonical("int8_linear")(x.double(), rounded, scales.double(), wide)
        found = implementation("int8_linear", "triton")(*moved(x, rounded, scales, given))
        same(found, exact, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("group", [16, 32, 64, 256])
def test_weights_of_4_bits_as_in_float64(group: int, dtype: torch.dtype) -> None:
    x, weight, bias = drawn(dtype, 5, 43, 512)
    packed, scales = quantise_int4(weight, group)
    # Weights are rounded to the dtype as the plain operator rounds them.
    whole = canonical("int4_linear")(torch.eye(512).to(dtype), packed, scales, None).T
    for given in (bias, None):
        wide = None if given is None else given.double()
        exact = torch.nn.functional.linear(x.double(), whole.double(), wide)
        found = implementation("int4_linear", "triton")(*moved(x, packed, scales, given))
        same(found, exact, TOLERANCE[dtype])


def test_inputs_of_4_bits_may_be_split() -> None:
    x, weight, _ = drawn(torch.float32, 3, 40, 256)
    packed, scales = quantise_int4(weight, 64)
    exact = canonical("int4_linear")(x.double(), packed, scales.double(), None)
    config = {**SMALL, "SPLITS": 3}
    found = launch(*moved(x, packed, None, scales), config=config)
    same(found, exact, 1e-5)
