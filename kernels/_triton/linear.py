"""Linear layers of few rows, whose time is that of reading the weight once.

Where outputs make too few programs for all multiprocessors, the inputs are split as well: each
part's sums are written in float32 and added up in their order, so that every run rounds alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from dllmc.kernels._triton.configurations import configuration
from dllmc.kernels._triton.product import numbers, product

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.kernels._triton.configurations import Configuration

_BLOCK = 1024
# Programs that fill the multiprocessors of an A100 or H100 about twice.
_PROGRAMS = 264
# Blocks of inputs that a program has at least, and parts that the inputs are split into at most.
_BLOCKS, _PARTS = 4, 8


@triton.jit
def _part(
    x,
    weight,
    scales,
    bias,
    out,
    rows,
    outputs,
    depth,
    group,
    x_stride,
    weight_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    EVEN: tl.constexpr,
    BITS: tl.constexpr,
):
    """Results of a tile of rows and outputs, or one of `SPLITS` parts of their sums."""
    row_tile = tl.program_id(0)
    output_tile = tl.program_id(1)
    part = tl.program_id(2)
    blocks = tl.cdiv(depth, BLOCK_K)
    share = tl.cdiv(blocks, SPLITS)
    row_numbers = numbers(row_tile, rows, BLOCK_M)
    output_numbers = numbers(output_tile, outputs, BLOCK_N)
    total = product(
        x,
        weight,
        scales,
        row_numbers,
        output_numbers,
        x_stride,
        weight_stride,
        depth,
        group,
        part * share,
        tl.minimum(blocks, part * share + share),
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN,
        BITS,
    )
    if BITS == 8:
        total *= tl.load(scales + output_numbers).to(tl.float32)[:, None]
    if bias is not None:
        total += tl.load(bias + output_numbers).to(tl.float32)[:, None]
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    output = output_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    line = (part * rows + row).to(tl.int64) * outputs
    place = out + line[None, :] + output[:, None]
    real = (row < rows)[None, :] & (output < outputs)[:, None]
    tl.store(place, total.to(out.dtype.element_ty), mask=real)


@triton.jit
def _sum(parts, bias, out, size, outputs, SPLITS: tl.constexpr, BLOCK: tl.constexpr):
    """Results `[size]` of their parts `[SPLITS, size]`, and the bias."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = place < size
    total = tl.zeros([BLOCK], tl.float32)
    for part in range(SPLITS):
        total += tl.load(parts + part * size.to(tl.int64) + place, mask=real, other=0.0)
    if bias is not None:
        total += tl.load(bias + place % outputs, mask=real, other=0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=real)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scales: Tensor | None = None,
    *,
    config: Configuration | None = None,
) -> Tensor:
    """`x` `[..., D]` times `weight` transposed, plus `bias` `[E]`, rounded once.

    Args:
        x: bfloat16, float16 or float32; what is not dense along D is copied.
        weight: `[E, D]` in the dtype of `x`, or with `scales` as `int8_linear` or `int4_linear`
            (uint8) take it.
        bias: `[E]` or None.
        scales: Of a rounded weight.
        config: Instead of the one in the table; without `SPLITS`, the sizes decide.
    """
    lines = x.reshape(-1, x.shape[-1])
    lines = lines if lines.stride(1) == 1 else lines.contiguous()
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    rows, depth = lines.shape
    outputs = weight.shape[0]
    out = x.new_empty(rows, outputs)
    if not out.numel():
        return out.view(*x.shape[:-1], outputs)
    bits = 16 if scales is None else 8 if weight.dtype == torch.int8 else 4
    chosen = dict(config or configuration(table_name(bits, x.dtype), rows, x.device))
    group = depth
    if bits == 4 and scales is not None:
        scales = scales.contiguous()
        group = depth // scales.shape[1]
        chosen["BLOCK_K"] = min(chosen["BLOCK_K"], group)
    tiles = triton.cdiv(rows, chosen["BLOCK_M"]), triton.cdiv(outputs, chosen["BLOCK_N"])
    blocks = triton.cdiv(depth, chosen["BLOCK_K"])
    splits = chosen.setdefault("SPLITS", _splits(tiles[0] * tiles[1], blocks))
    parts = out if splits == 1 else x.new_empty(splits, rows, outputs, dtype=torch.float32)
    _part[(*tiles, splits)](
        lines,
        weight,
        scales,
        bias if splits == 1 else None,
        parts,
        rows,
        outputs,
        depth,
        group,
        lines.stride(0),
        weight.stride(0),
        EVEN=depth % chosen["BLOCK_K"] == 0,
        BITS=bits,
        **chosen,
    )
    if splits > 1:
        grid = (triton.cdiv(out.numel(), _BLOCK),)
        _sum[grid](parts, bias, out, out.numel(), outputs, SPLITS=splits, BLOCK=_BLOCK)
    return out.view(*x.shape[:-1], outputs)


def table_name(bits: int, dtype: torch.dtype) -> str:
    """Name in the table of configurations, by bits of the weight and dtype of the rows."""
    if dtype == torch.float32:
        return "linear_float32"
    return {16: "linear", 8: "int8_linear", 4: "int4_linear"}[bits]


def _splits(tiles: int, blocks: int) -> int:
    return max(1, min(_PROGRAMS // tiles, blocks // _BLOCKS, _PARTS))
