"""Products of few rows with a large weight, as the kernels of linear layers and heads share them.

The weight is the left operand: its outputs fill the 64 lines that the tensor cores of sm_90 take
at least, however few rows there are, and weights that are made in registers go in from there.
A weight is read once per tile of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def numbers(tile, limit, BLOCK: tl.constexpr):
    """Numbers of a tile's lines; those from `limit` on begin anew, so that all may be read."""
    return (tile * BLOCK + tl.arange(0, BLOCK)) % limit


@triton.jit
def product(
    x,
    weight,
    scales,
    row_numbers,
    output_numbers,
    x_stride,
    weight_stride,
    depth,
    group,
    first,
    last,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    BITS: tl.constexpr,
):
    """Outputs by rows `[BLOCK_N, BLOCK_M]` of blocks `first` to `last` of the inputs, float32.

    Args:
        x: `[rows, depth]` of 16 or 32 bits.
        weight: `[outputs, depth]` in the dtype of `x`, int8 (`BITS` is 8; not scaled here), or
            bytes of two inputs each, as `int4_linear` has them (`BITS` is 4).
        scales: Of 4 bits, `[outputs, depth / group]`; `BLOCK_K` divides `group`.
        EVEN: Whether `BLOCK_K` divides `depth`.
    """
    dtype = x.dtype.element_ty
    PACKED: tl.constexpr = BLOCK_K // 2 if BITS == 4 else BLOCK_K
    inner = tl.arange(0, BLOCK_K)
    packed = tl.arange(0, PACKED)
    columns = x + row_numbers.to(tl.int64)[None, :] * x_stride + inner[:, None]
    lines = weight + output_numbers.to(tl.int64)[:, None] * weight_stride + packed[None, :]
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for block in range(first, last):
        if EVEN:
            right = tl.load(columns + block * BLOCK_K)
            left = tl.load(lines + block * PACKED)
        else:
            held = depth - block * BLOCK_K
            right = tl.load(columns + block * BLOCK_K, mask=inner[:, None] < held, other=0.0)
            left = tl.load(lines + block * PACKED, mask=packed[None, :] < held, other=0)
        if BITS == 4:
            codes = tl.interleave(left & 15, left >> 4).to(tl.int8) - 8
            place = output_numbers * (depth // group) + block * BLOCK_K // group
            left = codes.to(dtype) * tl.load(scales + place)[:, None]
        left = left.to(dtype)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total
