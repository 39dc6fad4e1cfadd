"""Linear layers with weights of 4 bits, one scale per group of inputs of an output.

Two weights stand in a byte, as the artifact has them. torch's CPU kernel wants a layout that
depends on the processor, so each weight is packed for it at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from dllmc.kernels._library import ANYWHERE, define, implement
from dllmc.kernels.int8_linear import aligned

if TYPE_CHECKING:
    from torch import Tensor

_SIGNATURE = "int4_linear(Tensor x, Tensor weight, Tensor scales, Tensor? bias) -> Tensor"
# What 4 bits hold is -8 to 7, of which -7 to 7 are used; in a byte they stand with 8 added.
_LARGEST, _ZERO = 7, 8
# Groups that torch's kernel takes.
PACKED_GROUPS = (32, 64, 128, 256)


@define(_SIGNATURE)
def int4_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """`x` times the transpose of the weight that `weight` and `scales` hold, plus `bias`.

    Args:
        x: `[..., D]`.
        weight: `[E, D / 2]` uint8: input 2i in the low half of a byte, 2i + 1 in the high half,
            both with 8 added.
        scales: `[E, D / group]`, in the dtype of `x`.
        bias: `[E]` or None.
    """
    return F.linear(x, dequantise_int4(weight, scales), bias)


def _shape(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    del scales, bias
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@implement("int4_linear", "packed", _SIGNATURE, opaque_on="CPU", fake=_shape)
def int4_linear_packed(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """The same by torch's kernel, for bfloat16 on a CPU; the packed copy lives with `weight`.

    It takes groups of `PACKED_GROUPS` and outputs in sixteens; others are computed plainly.
    """
    group = 2 * weight.shape[1] // scales.shape[1]
    if group not in PACKED_GROUPS or weight.shape[0] % 16:
        return F.linear(x, dequantise_int4(weight, scales), bias)
    packed: Any
    packed, version = getattr(weight, "_dllmc_packed", (None, -1))
    if version != weight._version:
        made = torch.ops.aten._convert_weight_to_int4pack_for_cpu(_codes(weight), 1)
        # Scale and zero of each group; the kernel takes 8 off by itself.
        both = torch.stack([scales, torch.zeros_like(scales)], -1).transpose(0, 1).contiguous()
        packed = (made, both)
        weight._dllmc_packed = (packed, weight._version)  # type: ignore[attr-defined]
    rows = aligned(x.flatten(0, -2).contiguous())
    product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed[0], group, packed[1])
    product = product.view(*x.shape[:-1], weight.shape[0])
    return product if bias is None else product + bias


@implement("int4_linear", "triton", _SIGNATURE, opaque_on=ANYWHERE, fake=_shape)
def int4_linear_triton(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """The same for few rows, with weights made in registers; see `_triton/linear.py`.

    It takes groups of `PACKED_GROUPS`; others, and float64, are computed plainly.
    """
    group = 2 * weight.shape[1] // scales.shape[1]
    if group not in PACKED_GROUPS or x.dtype == torch.float64:
        plain: Tensor = int4_linear(x, weight, scales, bias)
        return plain
    from dllmc.kernels._triton.linear import launch

    return launch(x, weight, bias, scales)


def quantise_int4(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """`weight` `[E, D]` rounded to 4 bits as `int4_linear` takes it, and its scales.

    Symmetric: the largest magnitude of each group becomes 7.

    Args:
        weight: D is divisible by `group`.
        group: Inputs that have one scale; even.
    """
    exact = weight.detach().double().unflatten(-1, (-1, group))
    scales = exact.abs().amax(-1).div(_LARGEST).to(weight.dtype)
    divisors = scales.double().where(scales > 0, 1.0)
    rounded = (exact / divisors[..., None]).round().clamp(-_LARGEST, _LARGEST)
    codes = (rounded.flatten(-2) + _ZERO).byte()
    return codes[:, ::2] | (codes[:, 1::2] << 4), scales


def dequantise_int4(weight: Tensor, scales: Tensor) -> Tensor:
    """The weight `[E, D]` that `weight` and `scales` hold, in the dtype of `scales`."""
    whole = _codes(weight).to(scales.dtype) - _ZERO
    grouped: Tensor = whole.unflatten(-1, (scales.shape[1], -1)) * scales[..., None]
    return grouped.flatten(-2)


def _codes(weight: Tensor) -> Tensor:
    """Codes 0 to 15 `[E, D]` of the bytes `[E, D / 2]`."""
    # torch's ONNX exporter gives a shifted uint8 the type int8.
    wide = weight.to(torch.int32)
    return torch.stack([wide & 15, wide >> 4], -1).flatten(-2)
