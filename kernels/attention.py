"""Bidirectional attention, plain and through a slot-indexed cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import define, implement

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION = (
    "attention(Tensor q, Tensor k, Tensor v, float scale, Tensor? key_limit=None, "
    "Tensor? query_positions=None, Tensor? key_positions=None, Tensor? bias=None, "
    "Tensor? mask=None) -> Tensor"
)
CACHED = (
    "cached_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) keys, Tensor(b!) values, "
    "Tensor slots, Tensor key_limit, float scale, Tensor? query_positions=None, "
    "Tensor? key_positions=None, Tensor? bias=None, Tensor? mask=None) -> Tensor"
)
WRITE = "write_cache(Tensor k, Tensor v, Tensor(a!) keys, Tensor(b!) values, Tensor slots) -> ()"


@define("row_positions(Tensor tokens) -> Tensor")
def row_positions(tokens: Tensor) -> Tensor:
    """Canvas position of each row of `tokens` `[B, T]`, where every row is evaluated: `[B, T]`."""
    return torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)


@define("held(Tensor x) -> Tensor")
def held(x: Tensor) -> Tensor:
    """What `x` `[B, T]` says of the keys: itself, where every row is evaluated.

    With a cache it is an input instead, which says it of every slot.
    """
    return x.view_as(x)


@define("position_bias(Tensor bias, Tensor query_positions, Tensor key_positions) -> Tensor")
def position_bias(bias: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor:
    """A table of `attention` at positions `[B, W]` and `[B, K]`: `[B, H or 1, W, K]`.

    Positions beyond the table, which scratch slots have, read its last entry.
    """
    last = bias.shape[-1] - 1
    if bias.dim() == 2:
        apart = query_positions[..., None] - key_positions[:, None] + last // 2
        return bias[:, apart.clamp(0, last)].transpose(0, 1)
    rows = query_positions.clamp(max=last)[..., None]
    return bias[:, rows, key_positions.clamp(max=last)[:, None]].transpose(0, 1)


@define(ATTENTION)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    key_limit: Tensor | None = None,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Every query sees every key, up to its own limit if there are any.

    Args:
        q: `[B, H, W, D]`.
        k: `[B, G, K, D]`, G dividing H.
        v: `[B, G, K, E]`.
        scale: Of the scores, usually 1 / sqrt(D).
        key_limit: `[B, W]` int64: a query sees the keys at positions before its limit, at least
            one; None is all. Block-causal attention is such a limit, the end of a row's block.
        query_positions: `[B, W]` int64, canvas positions of the queries; needed for `bias`.
        key_positions: `[B, K]` int64, of the keys; needed for `key_limit` and `bias`.
        bias: Added to the scores: `[H or 1, T, T]` by query and key position, or
            `[H or 1, 2T - 1]` by query position minus key position plus T - 1.
        mask: `[B, H or 1, W or 1, K]`, bool, true where a query sees a key, or added to the
            scores.
    """
    seen = _added(bias, query_positions, key_positions, mask, q.dtype)
    if key_limit is not None:
        assert key_positions is not None
        visible = (key_positions[:, None] < key_limit[..., None])[:, None]
        seen = visible if seen is None else _joined(visible, seen)
    return _attend(q, k, v, seen, scale)


@define(CACHED)
def cached_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    key_limit: Tensor,
    scale: float,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Write K and V of the evaluated rows at their slots, then attend over the cache.

    Never causal. What lies beyond the limit is not read, so padded rows may write there.

    Args:
        q: `[B, H, W, D]`.
        k: `[B, G, W', D]`, G dividing H; the queries may be fewer than the rows written.
        v: `[B, G, W', E]`.
        keys: `[B, G, S, D]`, changed in place; finite everywhere, since NaN would leak through
            masked slots.
        values: `[B, G, S, E]`, changed in place.
        slots: `[B, W']` int64, where each row is written.
        key_limit: `[B]` int64, slots that each sequence reads, at least 1; or `[B, W]` int64, the
            position before which each query reads, which needs `key_positions`.
        scale: Of the scores.
        query_positions: `[B, W]` int64, canvas positions of the queries; needed for `bias`.
        key_positions: `[B, S]` int64, canvas position of what each slot holds.
        bias: As for `attention`.
        mask: `[B, H or 1, W or 1, S]`, as for `attention`.
    """
    write_cache(k, v, keys, values, slots)
    seen = _seen(q, keys, key_limit, query_positions, key_positions, bias, mask)
    return _attend(q, keys, values, seen, scale)


@implement("cached_attention", "full_mask", CACHED)
def cached_attention_full_mask(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    key_limit: Tensor,
    scale: float,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`cached_attention` with a mask `[B, H or 1, W, S]`: ONNX Runtime broadcasts no queries."""
    write_cache(k, v, keys, values, slots)
    seen = _seen(q, keys, key_limit, query_positions, key_positions, bias, mask)
    seen = seen.expand(q.shape[0], seen.shape[1], q.shape[2], keys.shape[2])
    return _attend(q, keys, values, seen, scale)


@implement("cached_attention", "plain", CACHED)
def cached_attention_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    key_limit: Tensor,
    scale: float,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`cached_attention` of matrix products and a softmax in float32 or better.

    For compilers that take attention for causal, as torch-tensorrt takes any that has a mask.
    """
    write_cache(k, v, keys, values, slots)
    seen = _seen(q, keys, key_limit, query_positions, key_positions, bias, mask)
    repeats = q.shape[1] // keys.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q * scale) @ keys.repeat_interleave(repeats, 1).transpose(-2, -1)
    scores = scores.to(wide)
    scores = scores.where(seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
    return scores.softmax(-1).to(q.dtype) @ values.repeat_interleave(repeats, 1)


@define(WRITE)
def write_cache(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """Write K and V of the evaluated rows at their slots, and read nothing.

    Args:
        k: `[B, G, W, D]`.
        v: `[B, G, W, E]`.
        keys: `[B, G, S, D]`, changed in place.
        values: `[B, G, S, E]`, changed in place.
        slots: `[B, W]` int64, where each row is written.
    """
    batch = torch.arange(k.shape[0], device=k.device)[:, None, None]
    heads = torch.arange(k.shape[1], device=k.device)[None, :, None]
    keys.index_put_((batch, heads, slots[:, None]), k)
    values.index_put_((batch, heads, slots[:, None]), v)


def _seen(
    q: Tensor,
    keys: Tensor,
    key_limit: Tensor,
    query_positions: Tensor | None,
    key_positions: Tensor | None,
    bias: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Which slots each query of `cached_attention` sees, or what is added to the scores."""
    if key_limit.dim() == 1:
        visible = (torch.arange(keys.shape[2], device=q.device) < key_limit[:, None])[:, None]
    else:
        assert key_positions is not None
        visible = key_positions[:, None] < key_limit[..., None]
    added = _added(bias, query_positions, key_positions, mask, q.dtype)
    return visible[:, None] if added is None else _joined(visible[:, None], added)


def _added(
    bias: Tensor | None,
    query_positions: Tensor | None,
    key_positions: Tensor | None,
    mask: Tensor | None,
    dtype: torch.dtype,
) -> Tensor | None:
    """Bias and mask as one mask, bool or in `dtype`."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(dtype)
    if bias is None:
        return mask
    assert query_positions is not None
    assert key_positions is not None
    found = position_bias(bias, query_positions, key_positions).to(dtype)
    return found if mask is None else _joined(mask, found)


def _joined(visible: Tensor, other: Tensor) -> Tensor:
    """Two masks at once."""
    if visible.dtype != torch.bool:
        return visible + other if other.dtype != torch.bool else _joined(other, visible)
    return visible & other if other.dtype == torch.bool else other.where(visible, -torch.inf)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)
