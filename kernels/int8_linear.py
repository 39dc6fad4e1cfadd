"""Linear layers with weights of 8 bits, one scale per output.

Weights are read as int8 and multiplied in the dtype of the activations. On a Xeon with AMX (one
thread, bfloat16, 4096 x 4096) a product of one row takes 0.9 ms where bfloat16 weights take 6.2;
of 32 rows 25 ms, where they take 7.5: it saves memory traffic and no arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import ANYWHERE, define, implement

if TYPE_CHECKING:
    from torch import Tensor

_SIGNATURE = "int8_linear(Tensor x, Tensor weight, Tensor scales, Tensor? bias) -> Tensor"
_LARGEST = 127
_VECTOR, _ALIGNMENT = 32, 64


@define(_SIGNATURE)
def int8_linear(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """`x` times the transpose of `weight` times `scales`, plus `bias`.

    Args:
        x: `[..., D]`.
        weight: `[E, D]` int8.
        scales: `[E]`, in the dtype of `x`.
        bias: `[E]` or None.
    """
    product = F.linear(x, weight.to(x.dtype)) * scales
    return product if bias is None else product + bias


def _shape(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    del scales, bias
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@implement("int8_linear", "packed", _SIGNATURE, opaque_on="CPU", fake=_shape)
def int8_linear_packed(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """The same by torch's kernel that reads int8; for bfloat16 on a CPU.

    It takes inputs in thirty-twos; others are computed plainly. (Other dtypes it takes too, and 40
    times as long as the plain product.) What does not start at a multiple of 64 bytes, as
    weights that are mapped from a file, ends the process, so it is copied first: weights once.
    """
    if weight.shape[1] % _VECTOR:
        plain = F.linear(x, weight.to(x.dtype)) * scales
        return plain if bias is None else plain + bias
    held, version = getattr(weight, "_dllmc_aligned", (None, -1))
    if version != weight._version:
        held = aligned(weight.detach())
        weight._dllmc_aligned = (held, weight._version)  # type: ignore[attr-defined]
    rows = aligned(x.flatten(0, -2).contiguous())
    product: Tensor = torch.ops.aten._weight_int8pack_mm(rows, held, scales)
    product = product.view(*x.shape[:-1], weight.shape[0])
    return product if bias is None else product + bias


@implement("int8_linear", "triton", _SIGNATURE, opaque_on=ANYWHERE, fake=_shape)
def int8_linear_triton(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """The same for few rows, with weights widened in registers; see `_triton/linear.py`."""
    if x.dtype == torch.float64:
        plain: Tensor = int8_linear(x, weight, scales, bias)
        return plain
    from dllmc.kernels._triton.linear import launch

    return launch(x, weight, bias, scales.contiguous())


def aligned(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy of it, that starts where vector instructions may read."""
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


def quantise_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` `[E, D]` rounded to int8, and its scales `[E]` in its own dtype.

    Symmetric: the largest magnitude of each output becomes 127.
    """
    exact = weight.detach().double()
    scales = exact.abs().amax(-1).div(_LARGEST).to(weight.dtype)
    divisors = scales.double().where(scales > 0, 1.0)
    rounded = (exact / divisors[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return rounded.char(), scales
