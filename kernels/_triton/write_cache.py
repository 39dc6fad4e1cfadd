"""K and V of the evaluated rows into their slots, both in one launch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from dllmc.kernels._triton.configurations import configuration

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.kernels._triton.configurations import Configuration


@triton.jit
def move(
    source,
    cache,
    row,
    slot,
    heads,
    real,
    head_stride,
    row_stride,
    lane_stride,
    cache_head_stride,
    cache_slot_stride,
    cache_lane_stride,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
):
    """One row of some heads; `source` and `cache` point at its sequence."""
    lanes = tl.arange(0, PADDED)
    there = real[:, None] & (lanes < WIDTH)[None]
    at = heads[:, None] * head_stride + row * row_stride + lanes[None] * lane_stride
    value = tl.load(source + at, mask=there)
    to = heads[:, None] * cache_head_stride + slot * cache_slot_stride
    tl.store(cache + to + lanes[None] * cache_lane_stride, value, mask=there)


@triton.jit
def write(
    k,
    v,
    keys,
    values,
    places,
    rows,
    groups,
    slots,
    place_batch,
    place_row,
    k_batch,
    k_head,
    k_row,
    k_lane,
    v_batch,
    v_head,
    v_row,
    v_lane,
    keys_batch,
    keys_head,
    keys_slot,
    keys_lane,
    values_batch,
    values_head,
    values_slot,
    values_lane,
    WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    HEADS: tl.constexpr,
):
    """Some heads of one row; what has no slot in the cache is not written."""
    batch = (tl.program_id(0) // rows).to(tl.int64)
    row = (tl.program_id(0) % rows).to(tl.int64)
    heads = (tl.program_id(1) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
    slot = tl.load(places + batch * place_batch + row * place_row)
    real = (heads < groups) & (slot >= 0) & (slot < slots)
    move(
        k + batch * k_batch,
        keys + batch * keys_batch,
        row,
        slot,
        heads,
        real,
        k_head,
        k_row,
        k_lane,
        keys_head,
        keys_slot,
        keys_lane,
        WIDTH,
        PADDED,
    )
    move(
        v + batch * v_batch,
        values + batch * values_batch,
        row,
        slot,
        heads,
        real,
        v_head,
        v_row,
        v_lane,
        values_head,
        values_slot,
        values_lane,
        VALUE_WIDTH,
        VALUE_PADDED,
    )


def launch(
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    *,
    config: Configuration | None = None,
) -> None:
    """Change `keys` `[B, G, S, D]` and `values` `[B, G, S, E]` in place, all of any strides.

    Args:
        k: `[B, G, W, D]`.
        v: `[B, G, W, E]`.
        keys: Where K goes.
        values: Where V goes.
        slots: `[B, W]` integers; a row whose slot is beyond the cache is left out.
        config: Instead of the one in the table.
    """
    batch, groups, rows, width = k.shape
    if not k.numel():
        return
    config = dict(config or configuration("write_cache", batch * rows, k.device))
    padded = triton.next_power_of_2(width)
    heads = max(1, min(config.pop("BLOCK") // padded, triton.next_power_of_2(groups)))
    write[(batch * rows, triton.cdiv(groups, heads))](
        k,
        v,
        keys,
        values,
        slots,
        rows,
        groups,
        keys.shape[2],
        *slots.stride(),
        *k.stride(),
        *v.stride(),
        *keys.stride(),
        *values.stride(),
        WIDTH=width,
        VALUE_WIDTH=v.shape[3],
        PADDED=padded,
        VALUE_PADDED=triton.next_power_of_2(v.shape[3]),
        HEADS=heads,
        **config,
    )
