"""The product of a language-model head and its statistics in one pass, no logits written.

A program computes a tile of logits, rounds them as `F.linear` does, and keeps of each row what
`statistics.py` keeps of a part of the vocabulary; its `merge` joins the parts. The logit of the
mask token is written by the program that meets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from dllmc.kernels._triton.configurations import configuration
from dllmc.kernels._triton.product import numbers, product
from dllmc.kernels._triton.statistics import gumbel, merge, reduce

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.kernels._triton.configurations import Configuration

# Parts that a warp merges.
_PARTS_OF_A_WARP = 256


@triton.jit
def _tile(
    x,
    weight,
    bias,
    hashes,
    temperature,
    parts,
    tokens_of_parts,
    barred,
    mask_id,
    vocabulary,
    rows,
    rows_of_one,
    depth,
    x_stride,
    weight_stride,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    SAMPLED: tl.constexpr,
):
    """Candidates of a tile of rows among a tile of tokens."""
    row_tile = tl.program_id(0)
    part = tl.program_id(1)
    splits = tl.num_programs(1)
    row_numbers = numbers(row_tile, rows, BLOCK_M)
    readable = numbers(part, vocabulary, BLOCK_N)
    logits = product(
        x,
        weight,
        None,
        row_numbers,
        readable,
        x_stride,
        weight_stride,
        depth,
        depth,
        0,
        tl.cdiv(depth, BLOCK_K),
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        EVEN,
        16,
    )
    if bias is not None:
        logits += tl.load(bias + readable).to(tl.float32)[:, None]
    logits = logits.to(x.dtype.element_ty).to(tl.float32)
    tokens = (part * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    row = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = row < rows
    if (mask_id >= part * BLOCK_N) & (mask_id < part * BLOCK_N + BLOCK_N):
        at_mask = tl.max(tl.where(tokens == mask_id, logits, float("-inf")), 0)
        tl.store(barred + row, at_mask, mask=real)
    allowed = (tokens < vocabulary) & (tokens != mask_id)
    logits = tl.where(allowed, logits, float("-inf"))
    key = logits
    if SAMPLED:
        heat = tl.load(temperature + row_numbers // rows_of_one)
        row_hash = tl.load(hashes + row_numbers).to(tl.uint32)
        key = logits + heat[None, :] * gumbel(row_hash[None, :], tokens)
    nothing = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    key, token, logit, base, tail = reduce(key, tokens, logits, logits, nothing)
    index = row.to(tl.int64) * splits + part
    tl.store(parts + index * 4, key, mask=real)
    tl.store(parts + index * 4 + 1, logit, mask=real)
    tl.store(parts + index * 4 + 2, base, mask=real)
    tl.store(parts + index * 4 + 3, tail, mask=real)
    tl.store(tokens_of_parts + index, token, mask=real)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask_id: int,
    temperature: Tensor | None = None,
    hashes: Tensor | None = None,
    *,
    config: Configuration | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids int64, logits and tail masses in float32 `[B, R]` of `x` `[B, R, D]`.

    Args:
        x: bfloat16, float16 or float32; what is not dense along D is copied.
        weight: `[V, D]` in the dtype of `x`.
        bias: `[V]` or None.
        mask_id: Token that is never the candidate.
        temperature: `[B]` float32 of drawn candidates; None is the arg-max.
        hashes: `[B, R]` int64 of `row_hash`, for drawn ones.
        config: Instead of the one in the table.
    """
    batch, rows_of_one, depth = x.shape
    lines = x.reshape(-1, depth)
    lines = lines if lines.stride(1) == 1 else lines.contiguous()
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    rows, vocabulary = batch * rows_of_one, weight.shape[0]
    single: dict[str, Any] = {"dtype": torch.float32, "device": x.device}
    ids = torch.empty(batch, rows_of_one, dtype=torch.int64, device=x.device)
    chosen, tails = (torch.empty(batch, rows_of_one, **single) for _ in range(2))
    if not rows:
        return ids, chosen, tails
    chosen_config = config or configuration(table_name(x.dtype), rows, x.device)
    splits = triton.cdiv(vocabulary, chosen_config["BLOCK_N"])
    parts = torch.empty(rows, splits, 4, **single)
    tokens = torch.empty(rows, splits, dtype=torch.int32, device=x.device)
    barred = torch.empty(rows, 1, **single)
    _tile[(triton.cdiv(rows, chosen_config["BLOCK_M"]), splits)](
        lines,
        weight,
        bias,
        None if hashes is None else hashes.contiguous(),
        temperature,
        parts,
        tokens,
        barred,
        mask_id,
        vocabulary,
        rows,
        rows_of_one,
        depth,
        lines.stride(0),
        weight.stride(0),
        EVEN=depth % chosen_config["BLOCK_K"] == 0,
        SAMPLED=temperature is not None,
        **chosen_config,
    )
    # `barred` is logits of a vocabulary of the mask token alone, or of none that is known.
    known = 0 <= mask_id < vocabulary
    padded = triton.next_power_of_2(splits)
    merge[(rows,)](
        barred,
        parts,
        tokens,
        ids,
        chosen,
        tails,
        0 if known else -1,
        1,
        rows,
        rows,
        1,
        SPLITS=splits,
        PADDED=padded,
        WIDE=tl.float32,
        num_warps=warps(padded),
    )
    return ids, chosen, tails


def table_name(dtype: torch.dtype) -> str:
    """Name in the table of configurations for rows of `dtype`."""
    return "head_statistics_float32" if dtype == torch.float32 else "head_statistics"


def warps(padded: int) -> int:
    """How many warps merge so many parts."""
    return max(1, min(8, padded // _PARTS_OF_A_WARP))
