"""Attention and its cache on NVIDIA GPUs: the operators of `attention.py` in Triton."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.kernels._library import ANYWHERE, implement
from dllmc.kernels.attention import ATTENTION, CACHED, WRITE, attention, cached_attention

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_WIDEST = 256


def _shape(q: Tensor, _k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
    batch, heads, rows, _width = q.shape
    return q.new_empty(batch, rows, heads, v.shape[3]).transpose(1, 2)


def _takes(q: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    return bias is None and q.dtype in _DTYPES and max(q.shape[3], v.shape[3]) <= _WIDEST


@implement("attention", "triton", ATTENTION, opaque_on=ANYWHERE, fake=_shape)
def attention_triton(
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
    """`attention` by tiles of queries; see `_triton/attention.py`.

    The plain body where there is a bias, in float64, and for heads wider than 256.
    """
    if not _takes(q, v, bias):
        plain = attention(q, k, v, scale, key_limit, query_positions, key_positions, bias, mask)
        return _rows_first(plain)
    from dllmc.kernels._triton.attention import launch

    return launch(q, k, v, scale, key_limit, key_positions, mask)


@implement("cached_attention", "triton", CACHED, opaque_on=ANYWHERE, fake=_shape)
def cached_attention_triton(
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
    """`cached_attention`, its keys split among programs; see `_triton/attention.py`.

    The plain body where there is a bias, in float64, and for heads wider than 256. Slots that no
    row of a sequence sees by its limit may hold anything; those that only a mask or another
    row's limit hides must be finite, as for the plain body.
    """
    if not _takes(q, v, bias):
        plain = cached_attention(
            q,
            k,
            v,
            keys,
            values,
            slots,
            key_limit,
            scale,
            query_positions,
            key_positions,
            bias,
            mask,
        )
        return _rows_first(plain)
    from dllmc.kernels._triton.attention import launch

    write_cache_triton(k, v, keys, values, slots)
    return launch(q, keys, values, scale, key_limit, key_positions, mask)


@implement("write_cache", "triton", WRITE, opaque_on=ANYWHERE, fake=lambda *_: None)
def write_cache_triton(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """`write_cache` in one launch; see `_triton/write_cache.py`."""
    from dllmc.kernels._triton.write_cache import launch

    launch(k, v, keys, values, slots)


def _rows_first(x: Tensor) -> Tensor:
    """Laid out as compilers were told."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)
