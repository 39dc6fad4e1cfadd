"""Attention of few queries over many keys: keys are split among programs, then merged.

A program holds a tile of queries, those of all heads that share a head of keys together, and
reads its part of that head's keys once. It keeps the largest score, the sum of the exponentials
and the weighted values in float32 (arXiv 2205.14135); where there are several parts, a second
kernel merges them. Parts are equal shares of the keys below the limit, which is read on the
device: nothing that is launched depends on the values of tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from dllmc.kernels._triton.attention_parts import merge, splits_of
from dllmc.kernels._triton.configurations import configuration

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.kernels._triton.configurations import Configuration


_LOG2_E = tl.constexpr(1.4426950408889634)

_ALL, _PER_SEQUENCE, _PER_ROW = 0, 1, 2
_UNMASKED, _BOOL, _ADDED = 0, 1, 2


@triton.jit
def attend(
    q,
    keys,
    values,
    limits,
    positions,
    mask,
    out,
    parts,
    sums,
    scale,
    rows,
    groups,
    repeats,
    slots,
    q_batch,
    q_head,
    q_row,
    q_lane,
    keys_batch,
    keys_head,
    keys_slot,
    keys_lane,
    values_batch,
    values_head,
    values_slot,
    values_lane,
    limit_batch,
    limit_row,
    position_batch,
    position_slot,
    mask_batch,
    mask_head,
    mask_row,
    mask_slot,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLITS: tl.constexpr,
    LIMITED: tl.constexpr,
    MASKED: tl.constexpr,
):
    """A tile of the queries of one head of keys over one part of the keys.

    Queries are ordered by row and then by head. `LIMITED` and `MASKED` are of `_ALL` and
    `_UNMASKED` and what follows them.
    """
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS
    batch = (tl.program_id(1) // groups).to(tl.int64)
    group = (tl.program_id(1) % groups).to(tl.int64)
    query = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = query < rows * repeats
    row = query // repeats
    head = group * repeats + query % repeats
    place = ((batch * rows + row) * (groups * repeats) + head) * SPLITS + split

    limit = slots
    if LIMITED == 1:
        limit = tl.minimum(tl.load(limits + batch * limit_batch), slots).to(tl.int32)
    if LIMITED == 2:
        own = limits + batch * limit_batch + row * limit_row
        row_limit = tl.load(own, mask=real, other=-9223372036854775807)
        farthest = tl.max(row_limit, 0)
    blocks = tl.cdiv(limit, BLOCK_N)
    share = tl.cdiv(blocks, SPLITS)
    first = split * share
    last = tl.minimum(first + share, blocks)

    lanes = tl.arange(0, PADDED)
    value_lanes = tl.arange(0, VALUE_PADDED)
    columns = tl.arange(0, BLOCK_N)
    query_at = head[:, None] * q_head + row[:, None] * q_row + lanes[None] * q_lane
    real_lanes = real[:, None] & (lanes < WIDTH)[None]
    queries = tl.load(q + batch * q_batch + query_at, mask=real_lanes, other=0.0)
    keys += batch * keys_batch + group * keys_head
    values += batch * values_batch + group * values_head
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    gathered = tl.zeros([BLOCK_M, VALUE_PADDED], tl.float32)
    for block in range(first, last):
        slot = block * BLOCK_N + columns
        there = slot < limit
        if LIMITED == 2:
            position_at = batch * position_batch + slot * position_slot
            position = tl.load(positions + position_at, mask=there, other=9223372036854775807)
            there = there & (position < farthest)
        key_at = slot[None] * keys_slot + lanes[:, None] * keys_lane
        k = tl.load(keys + key_at, mask=there[None] & (lanes < WIDTH)[:, None], other=0.0)
        scores = tl.dot(queries, k, input_precision="ieee") * (scale * _LOG2_E)
        seen = there[None] & real[:, None]
        if LIMITED == 2:
            seen = seen & (position[None] < row_limit[:, None])
        if MASKED > 0:
            mask_at = head[:, None] * mask_head + row[:, None] * mask_row + slot[None] * mask_slot
            said = tl.load(mask + batch * mask_batch + mask_at, mask=seen, other=0)
            if MASKED == 1:
                seen = seen & (said != 0)
            else:
                scores += said.to(tl.float32) * _LOG2_E
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - finite[:, None])
        decay = tl.exp2(top - finite)
        top = higher
        total = total * decay + tl.sum(weights, 1)
        value_at = slot[:, None] * values_slot + value_lanes[None] * values_lane
        value_there = there[:, None] & (value_lanes < VALUE_WIDTH)[None]
        v = tl.load(values + value_at, mask=value_there, other=0.0)
        gathered = gathered * decay[:, None]
        gathered = tl.dot(weights.to(v.dtype), v, gathered, input_precision="ieee")

    held = real[:, None] & (value_lanes < VALUE_WIDTH)[None]
    at = place[:, None] * VALUE_WIDTH + value_lanes[None]
    if SPLITS == 1:
        inverse = 1.0 / tl.where(total > 0, total, 1.0)
        tl.store(out + at, (gathered * inverse[:, None]).to(out.dtype.element_ty), mask=held)
    else:
        tl.store(parts + at, gathered, mask=held & (total > 0)[:, None])
        tl.store(sums + place * 2, top, mask=real)
        tl.store(sums + place * 2 + 1, total, mask=real)


def kernel_name(dtype: torch.dtype, width: int) -> str:
    """Where the table has the configurations for heads of a width, the larger of K's and V's."""
    size = max(64, triton.next_power_of_2(width))
    return f"attention_float32_{size}" if dtype == torch.float32 else f"attention_{size}"


def launch(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    key_limit: Tensor | None = None,
    key_positions: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    config: Configuration | None = None,
    splits: int | None = None,
) -> Tensor:
    """`[B, H, W, E]`, rows before heads in memory; no row sees what is beyond its limit.

    A row that sees no key is 0.

    Args:
        q: `[B, H, W, D]` in float32, float16 or bfloat16.
        keys: `[B, G, S, D]`, G dividing H.
        values: `[B, G, S, E]`.
        scale: Of the scores.
        key_limit: None, `[B]` in slots, or `[B, W]` in positions.
        key_positions: `[B, S]`, for limits by row.
        mask: `[B, H or 1, W or 1, S]`, bool or added to the scores.
        config: Instead of the one in the table.
        splits: Instead of what `splits_of` says.
    """
    batch, heads, rows, width = q.shape
    groups, slots, value_width = values.shape[1:]
    out = q.new_empty(batch, rows, heads, value_width)
    if not out.numel():
        return out.transpose(1, 2)
    repeats = heads // groups
    name = kernel_name(q.dtype, max(width, value_width))
    config = config or configuration(name, rows * repeats, q.device)
    tiles = triton.cdiv(rows * repeats, config["BLOCK_M"])
    splits = splits or splits_of(batch * groups * tiles, slots, config["BLOCK_N"], q.device)
    number, wide = batch * rows * heads * splits, torch.float32
    parts = q.new_empty(number, value_width, dtype=wide) if splits > 1 else None
    sums = q.new_empty(number, 2, dtype=wide) if splits > 1 else None
    limited = _ALL
    limit_strides: tuple[int, ...] = (0, 0)
    if key_limit is not None:
        limited = _PER_ROW if key_limit.dim() == 2 else _PER_SEQUENCE
        limit_strides = (*key_limit.stride(), 0)[:2]
    placed = key_positions if limited == _PER_ROW else None
    masked = _UNMASKED
    mask_strides: tuple[int, ...] = (0, 0, 0, 0)
    if mask is not None:
        masked = _BOOL if mask.dtype == torch.bool else _ADDED
        mask = mask.view(torch.uint8) if masked == _BOOL else mask
        mask = mask.expand(batch, heads, rows, slots)
        mask_strides = mask.stride()
    widths = {"VALUE_WIDTH": value_width, "VALUE_PADDED": _padded(value_width), "SPLITS": splits}
    attend[(tiles * splits, batch * groups)](
        q,
        keys,
        values,
        key_limit,
        placed,
        mask,
        out,
        parts,
        sums,
        scale,
        rows,
        groups,
        repeats,
        slots,
        *q.stride(),
        *keys.stride(),
        *values.stride(),
        *limit_strides,
        *(placed.stride() if placed is not None else (0, 0)),
        *mask_strides,
        WIDTH=width,
        PADDED=_padded(width),
        LIMITED=limited,
        MASKED=masked,
        **widths,
        **config,
    )
    if splits > 1:
        padded = triton.next_power_of_2(splits)
        merge[(batch * rows * heads,)](parts, sums, out, PADDED_SPLITS=padded, **widths)
    return out.transpose(1, 2)


def _padded(width: int) -> int:
    """A width that `tl.dot` takes."""
    return max(16, int(triton.next_power_of_2(width)))
