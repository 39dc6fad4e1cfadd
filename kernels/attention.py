"""Bidirectional attention, plain and through a slot-indexed cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.kernels._library import define

if TYPE_CHECKING:
    from torch import Tensor


@define("attention(Tensor q, Tensor k, Tensor v, float scale) -> Tensor")
def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Every query sees every key.

    Args:
        q: `[B, H, W, D]`.
        k: `[B, G, W, D]`, G dividing H.
        v: `[B, G, W, E]`.
        scale: Of the scores, usually 1 / sqrt(D).
    """
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped)


@define(
    "cached_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) keys, Tensor(b!) values, "
    "Tensor slots, Tensor key_limit, float scale) -> Tensor"
)
def cached_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    key_limit: Tensor,
    scale: float,
) -> Tensor:
    """Write K and V of the evaluated rows at their slots, then attend over the cache.

    Never causal. Slots from `key_limit` on are not read, so padded rows may write there.

    Args:
        q: `[B, H, W, D]`.
        k: `[B, G, W, D]`, G dividing H.
        v: `[B, G, W, E]`.
        keys: `[B, G, S, D]`, changed in place; finite everywhere, since NaN would leak through
            masked slots.
        values: `[B, G, S, E]`, changed in place.
        slots: `[B, W]` int64, where each row is written.
        key_limit: `[B]` int64, slots that each sequence reads, at least 1.
        scale: Of the scores.
    """
    batch = torch.arange(k.shape[0], device=k.device)[:, None, None]
    heads = torch.arange(k.shape[1], device=k.device)[None, :, None]
    keys.index_put_((batch, heads, slots[:, None]), k)
    values.index_put_((batch, heads, slots[:, None]), v)
    readable = torch.arange(keys.shape[2], device=k.device) < key_limit[:, None]
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, keys, values, attn_mask=readable[:, None, None], scale=scale, enable_gqa=grouped
    )
