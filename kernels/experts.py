"""The routed feed-forward part of a mixture of experts (arXiv 1701.06538), gated as in SwiGLU.

Each row goes through the k experts that its router chose; there is no capacity limit, so that a
row's result does not depend on the other rows. Best milliseconds of several on one core of a Xeon,
float32 / bfloat16:

    E, D, F, k, rows        all experts    sorted by expert
    8, 32, 32, 2, 32        0.06 / 0.15       0.09 / 0.36
    32, 512, 256, 4, 32       16 / 2.9         7.4 / 3.4
    32, 512, 256, 4, 256      59 / 14           15 / 6.4
    64, 2048, 1024, 8, 4     269 / 80           67 / 32
    64, 2048, 1024, 8, 256  1512 / 400         378 / 121

For the sorted rows a loop of products over experts takes 2 to 30 % longer than the grouped
product, and products with weights packed for oneDNN 20 % less from 32 rows on at the largest
size but more at the others, for a second copy of the weights: not done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import define, implement

if TYPE_CHECKING:
    from torch import Tensor

_SIGNATURE = "experts(Tensor x, Tensor ids, Tensor weights, Tensor gate_up, Tensor down) -> Tensor"
# `torch._grouped_mm` takes matrices whose rows start at multiples of this many bytes.
_ALIGNMENT = 16
_GROUPED = (torch.float32, torch.bfloat16, torch.float16)


@define(_SIGNATURE)
def experts(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The weighted sum of the chosen experts' outputs, here by evaluating all experts.

    Args:
        x: `[..., D]`.
        ids: Of the chosen experts, `[..., k]` int64, each of a row another one.
        weights: Of their outputs, `[..., k]`; the sum is taken in their dtype if it is wider.
        gate_up: `[E, 2F, D]`: per expert the gate's rows, then those of the linear part.
        down: `[E, D, F]`.

    Returns:
        `[..., D]` in the dtype of `x`.
    """
    gate, up = F.linear(x, gate_up.flatten(0, 1)).unflatten(-1, gate_up.shape[:2]).chunk(2, dim=-1)
    hidden = (F.silu(gate) * up).flatten(0, -3).transpose(0, 1)
    every = torch.matmul(hidden, down.transpose(1, 2)).transpose(0, 1)
    chosen = ids.flatten(0, -2)[..., None].expand(-1, -1, x.shape[-1])
    return _weighted(every.gather(1, chosen).view(*ids.shape, x.shape[-1]), weights, x)


def _weighted(outputs: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """The sum over k of `outputs` `[..., k, D]`."""
    return (outputs * weights[..., None]).sum(-2).to(x.dtype)


def _shape(x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    del ids, weights, gate_up, down
    return x.new_empty(x.shape)


@implement("experts", "sorted", _SIGNATURE, opaque_on="CPU", fake=_shape)
def experts_sorted(
    x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """The same on rows sorted by expert, so that each expert sees its own rows only.

    For a CPU; one node of a graph, since how many rows an expert gets is known at run time only.
    """
    order, rows = _sort(x, ids)
    counts = torch.bincount(ids.flatten(), minlength=len(gate_up))
    if _alike(x, gate_up, down):
        outputs = _grouped(rows, counts.cumsum(0, dtype=torch.int32), gate_up, down)
    else:
        outputs = _looped(rows, counts.tolist(), gate_up, down)
    return _unsort(outputs, order, ids, weights, x)


@implement("experts", "grouped", _SIGNATURE)
def experts_grouped(
    x: Tensor, ids: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """The same in operators that never wait for the device, for bfloat16 on CUDA.

    D and F must be multiples of 8. Right on an H100; not timed there, so no default chooses it.
    """
    order, rows = _sort(x, ids)
    numbers = torch.arange(gate_up.shape[0], device=ids.device)
    ends = torch.searchsorted(ids.flatten()[order], numbers, right=True, out_int32=True)
    return _unsort(_grouped(rows, ends, gate_up, down), order, ids, weights, x)


def _sort(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of row and expert in the order of experts, and their rows of `x`."""
    order = ids.flatten().argsort(stable=True)
    return order, x.reshape(-1, x.shape[-1])[order // ids.shape[-1]]


def _grouped(rows: Tensor, ends: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
    return torch._grouped_mm(F.silu(gate) * up, down.transpose(1, 2), offs=ends)


def _looped(rows: Tensor, counts: list[int], gate_up: Tensor, down: Tensor) -> Tensor:
    parts = []
    for expert, mine in enumerate(rows.split(counts)):
        gate, up = F.linear(mine, gate_up[expert]).chunk(2, dim=-1)
        parts.append(F.linear(F.silu(gate) * up, down[expert]))
    return torch.cat(parts)


def _unsort(outputs: Tensor, order: Tensor, ids: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """Bring the outputs back to their rows and add each row's up, in the order of its choices."""
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return _weighted(outputs[back].view(*ids.shape, x.shape[-1]), weights, x)


def _alike(x: Tensor, gate_up: Tensor, down: Tensor) -> bool:
    """Whether `torch._grouped_mm` multiplies tensors of these forms."""
    aligned = all(
        t.is_contiguous() and t.shape[-1] * t.element_size() % _ALIGNMENT == 0
        for t in (gate_up, down)
    )
    return aligned and x.dtype in _GROUPED and x.dtype == gate_up.dtype == down.dtype
