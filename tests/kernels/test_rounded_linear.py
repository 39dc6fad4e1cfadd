from __future__ import annotations

import pytest
import torch

from dllmc.kernels import default_implementations, implementation
from dllmc.kernels.int4_linear import dequantise_int4, quantise_int4
from dllmc.kernels.int8_linear import quantise_int8

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def rounded(weight: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    return quantise_int8(weight) if bits == 8 else quantise_int4(weight, group)


def held(codes: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """The rounded weight in float64, number by number."""
    if bits == 8:
        return codes.double() * scales.double()[:, None]
    group = 2 * codes.shape[1] // scales.shape[1]
    found = torch.empty(codes.shape[0], 2 * codes.shape[1], dtype=torch.float64)
    for output, row in enumerate(codes.tolist()):
        for place, byte in enumerate(row):
            for half, code in enumerate((byte & 15, byte >> 4)):
                column = 2 * place + half
                found[output, column] = (code - 8) * scales[output, column // group].double()
    return found


def misaligned(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` where a file that is mapped may have it."""
    size = tensor.numel() * tensor.element_size()
    room = torch.zeros(size + 128, dtype=torch.uint8)
    start = -room.data_ptr() % 64 + 8
    found = room[start : start + size].view(tensor.dtype).view(tensor.shape)
    return found.copy_(tensor)


# `default_implementations` gives float64 the plain product.
@pytest.mark.parametrize(
    ("which", "dtype"),
    [*(("torch", dtype) for dtype in DTYPES), *(("packed", dtype) for dtype in DTYPES[1:])],
    ids=str,
)
@pytest.mark.parametrize(
    ("bits", "inputs", "outputs", "group"),
    [
        *((8, 64, 48, 0), (8, 40, 17, 0), (8, 24, 16, 0)),
        *((4, 64, 32, 32), (4, 64, 17, 32), (4, 48, 16, 6), (4, 128, 16, 64)),
    ],
)
def test_it_is_the_product_with_the_rounded_weight(
    which: str, dtype: torch.dtype, bits: int, inputs: int, outputs: int, group: int
) -> None:
    random = torch.Generator().manual_seed(inputs)
    weight = torch.randn(outputs, inputs, generator=random).to(dtype)
    bias = torch.randn(outputs, generator=random).to(dtype)
    codes, scales = rounded(weight, bits, group)
    operator = implementation(f"int{bits}_linear", which)
    for shape in ((1, 1), (2, 7), (3, 40)):
        x = torch.randn(*shape, inputs, generator=random).to(dtype)
        expected = torch.einsum("...d,ed->...e", x.double(), held(codes, scales, bits))
        for offset in (None, bias):
            found = operator(x, codes, scales, offset)
            assert found.dtype == dtype
            exact = expected if offset is None else expected + offset.double()
            error = (found.double() - exact).abs().max() / exact.abs().max()
            assert error < TOLERANCES[dtype]


@pytest.mark.parametrize("bits", [8, 4])
def test_mapped_weights_and_slices_are_read_wherever_they_start(bits: int) -> None:
    weight = torch.randn(32, 64).bfloat16()
    codes, scales = rounded(weight, bits, 32)
    x = torch.randn(2, 9, 64).bfloat16()
    operator = implementation(f"int{bits}_linear", "packed")
    found = operator(misaligned(x), misaligned(codes), misaligned(scales), None)
    torch.testing.assert_close(found, operator(x, codes, scales, None))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_weight_changed_in_place_is_read_again(bits: int) -> None:
    codes, scales = rounded(torch.randn(32, 64).bfloat16(), bits, 32)
    codes, x = misaligned(codes), torch.randn(5, 64).bfloat16()
    operator = implementation(f"int{bits}_linear", "packed")
    operator(x, codes, scales, None)
    codes.copy_(codes.flip(0))
    expected = implementation(f"int{bits}_linear", "torch")(x, codes, scales, None)
    torch.testing.assert_close(operator(x, codes, scales, None), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding_is_to_the_nearest_step_and_symmetric(dtype: torch.dtype) -> None:
    weight = torch.randn(12, 64).to(dtype)
    weight[3] = 0
    codes, scales = quantise_int8(weight)
    assert int(codes.min()) >= -127
    step = scales.double()[:, None]
    assert ((held(codes, scales, 8) - weight.double()).abs() <= 0.51 * step).all()
    assert torch.equal(codes[3], torch.zeros(64, dtype=torch.int8))
    codes, scales = quantise_int4(weight, 16)
    # The largest of a group is 7 steps, and a scale that bfloat16 has rounded down is one of 127
    # parts off: 7.06 steps.
    step = scales.double().repeat_interleave(16, 1)
    assert ((held(codes, scales, 4) - weight.double()).abs() <= 0.57 * step).all()
    assert torch.equal(
        dequantise_int4(*quantise_int4(-weight, 16)), -dequantise_int4(codes, scales)
    )


def test_the_kernels_that_read_rounded_weights_are_chosen_for_bfloat16_alone() -> None:
    cpu = torch.device("cpu")
    for name in ("int8_linear", "int4_linear"):
        assert default_implementations(cpu, torch.bfloat16)[name] == "packed"
        assert name not in default_implementations(cpu, torch.float32)
