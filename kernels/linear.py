"""Linear layers, plain and with weights packed for oneDNN.

On an AMD EPYC a packed float32 product of 32 rows by 1408 x 512 takes 0.21 ms and `F.linear`,
which calls MKL, 0.50 ms; Inductor's own packing also calls MKL. The packed layout does not depend
on the number of rows (from 8 rows on), so one packed copy serves every step plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import ANYWHERE, define, implement

if TYPE_CHECKING:
    from torch import Tensor

_SIGNATURE = "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor"
# Rows that the layout is chosen for; 1 would choose another one, 12 to 80 % slower for more.
_PACKED_FOR_ROWS = 32
_FEW_ROWS, _MANY_OUTPUTS = 32, 12_288


@define(_SIGNATURE)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x` `[..., D]` times `weight` `[E, D]` transposed, plus `bias` `[E]`."""
    return F.linear(x, weight, bias)


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    del bias
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@implement("linear", "onednn", _SIGNATURE, opaque_on="CPU", fake=_shape)
def linear_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same with `weight` packed at its first use; the copy lives as long as `weight`.

    float32 and bfloat16 on a CPU. A weight that was changed in place is packed again.
    """
    packed, version = getattr(weight, "_dllmc_packed", (None, -1))
    if version != weight._version:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _PACKED_FOR_ROWS)
        weight._dllmc_packed = (packed, weight._version)  # type: ignore[attr-defined]
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product


@implement("linear", "triton", _SIGNATURE, opaque_on=ANYWHERE, fake=_shape)
def linear_triton(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same for few rows, at the speed of reading `weight` once; see `_triton/linear.py`."""
    if x.dtype == torch.float64:
        return F.linear(x, weight, bias)
    from dllmc.kernels._triton.linear import launch

    return launch(x, weight, bias)


@implement("linear", "measured", _SIGNATURE, opaque_on=ANYWHERE, fake=_shape)
def linear_measured(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Triton's product where it reads weights faster than the library's, by size alone.

    On an H100, 32 rows of bfloat16 (`benchmarks/results/gpu-*.json`): of 12,288 outputs it takes
    37.8 us of 40.0, of 24,576 71.3 of 73.5, of a vocabulary of 126,464 353 of 378; of 4,096
    outputs 16.7 of 14.4.
    """
    rows = x.numel() // max(1, x.shape[-1])
    if x.dtype == torch.bfloat16 and rows <= _FEW_ROWS and weight.shape[0] >= _MANY_OUTPUTS:
        product: Tensor = linear_triton(x, weight, bias)
        return product
    return F.linear(x, weight, bias)


def onednn_takes(dtype: torch.dtype) -> bool:
    """Whether this machine's oneDNN multiplies packed weights of `dtype`."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
