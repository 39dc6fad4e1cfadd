"""Candidate, logit and tail mass of logits in one pass, nothing of their size written.

A program reads a part of one row. Every lane keeps a candidate of its own and the mass of all
other tokens that it has read, relative to the largest logit among them: of a candidate and a
token that it meets, the one that loses goes into the mass. So no term is ever taken away again,
and a tail far smaller than the candidate keeps its precision. Lanes and then programs are merged
by the same rule, and the mask token, which may not win, joins at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from dllmc.kernels._triton.configurations import configuration

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.kernels._triton.configurations import Configuration

_NO_TOKEN = tl.constexpr(2147483647)


@triton.jit
def gumbel(row_hash, tokens):
    """Noise of `tokens`; `kernels/noise.py` in unsigned 32 bits."""
    h = row_hash ^ tokens.to(tl.uint32)
    h = h ^ (h >> 16)
    h = h * 0x21F0AAAD
    h = h ^ (h >> 15)
    h = h * 0x735A2D97
    h = h ^ (h >> 15)
    uniform = ((h >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(uniform))


@triton.jit
def join(key, token, logit, base, tail, x_key, x_token, x_logit):
    """Candidates with their tails, and one more token each."""
    wins = x_key > key
    top = tl.maximum(base, x_logit)
    finite = tl.where(top == float("-inf"), 0.0, top)
    loser = tl.where(wins, logit, x_logit)
    tail = tail * tl.exp(base - finite) + tl.exp(loser - finite)
    key = tl.where(wins, x_key, key)
    token = tl.where(wins, x_token, token)
    logit = tl.where(wins, x_logit, logit)
    return key, token, logit, top, tail


@triton.jit
def join_largest(logit, token, tail, x_token, x):
    """The same where the candidate is the largest logit, which is the base then: one exponential.

    With two of them a pass over 1,024 rows runs at half the copy bandwidth of an H100.
    """
    wins = x > logit
    low = tl.minimum(x, logit)
    high = tl.maximum(x, logit)
    share = tl.where(low == float("-inf"), 0.0, tl.exp(low - high))
    tail = tl.where(wins, (tail + 1.0) * share, tail + share)
    return high, tl.where(wins, x_token, token), tail


@triton.jit
def reduce(key, token, logit, base, tail):
    """One candidate of all lanes of a vector, the lowest token of equals."""
    best = tl.max(key, 0)
    winner = tl.min(tl.where(key == best, token, _NO_TOKEN), 0)
    won = token == winner
    chosen = tl.max(tl.where(won, logit, float("-inf")), 0)
    top = tl.max(base, 0)
    finite = tl.where(top == float("-inf"), 0.0, top)
    lost = tl.where(won, 0.0, tl.exp(logit - finite))
    return best, winner, chosen, top, tl.sum(tail * tl.exp(base - finite) + lost, 0)


@triton.jit
def _split(
    logits,
    hashes,
    temperature,
    parts,
    tokens_of_parts,
    mask_id,
    vocabulary,
    rows,
    batch_stride,
    row_stride,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    SAMPLED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Candidate of one part of one row."""
    index = tl.program_id(0)
    part = tl.program_id(1)
    batch = index // rows
    start = logits + batch.to(tl.int64) * batch_stride + (index % rows).to(tl.int64) * row_stride
    lanes = tl.arange(0, BLOCK)
    key = tl.full([BLOCK], float("-inf"), WIDE)
    logit = tl.full([BLOCK], float("-inf"), WIDE)
    base = tl.full([BLOCK], float("-inf"), WIDE)
    tail = tl.zeros([BLOCK], WIDE)
    token = tl.full([BLOCK], _NO_TOKEN, tl.int32)
    if SAMPLED:
        heat = tl.load(temperature + batch)
        row_hash = tl.load(hashes + index).to(tl.uint32)
    blocks = tl.cdiv(vocabulary, BLOCK)
    for block in range(part, blocks, SPLITS):
        tokens = block * BLOCK + lanes
        x = tl.load(start + tokens, mask=tokens < vocabulary, other=float("-inf")).to(WIDE)
        x = tl.where(tokens == mask_id, float("-inf"), x)
        if SAMPLED:
            x_key = x + heat * gumbel(row_hash, tokens)
            key, token, logit, base, tail = join(key, token, logit, base, tail, x_key, tokens, x)
        else:
            logit, token, tail = join_largest(logit, token, tail, tokens, x)
    if not SAMPLED:
        key = logit
        base = logit
    key, token, logit, base, tail = reduce(key, token, logit, base, tail)
    place = parts + (index * SPLITS + part) * 4
    tl.store(place, key)
    tl.store(place + 1, logit)
    tl.store(place + 2, base)
    tl.store(place + 3, tail)
    tl.store(tokens_of_parts + index * SPLITS + part, token)


@triton.jit
def merge(
    logits,
    parts,
    tokens_of_parts,
    ids,
    chosen,
    tails,
    mask_id,
    vocabulary,
    rows,
    batch_stride,
    row_stride,
    SPLITS: tl.constexpr,
    PADDED: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Candidate of a row of its parts `[rows, SPLITS, 4]`, and the mask token's mass."""
    index = tl.program_id(0)
    lanes = tl.arange(0, PADDED)
    real = lanes < SPLITS
    place = parts + (index * SPLITS + lanes) * 4
    key = tl.load(place, mask=real, other=float("-inf"))
    logit = tl.load(place + 1, mask=real, other=float("-inf"))
    base = tl.load(place + 2, mask=real, other=float("-inf"))
    tail = tl.load(place + 3, mask=real, other=0.0)
    token = tl.load(tokens_of_parts + index * SPLITS + lanes, mask=real, other=_NO_TOKEN)
    key, token, logit, base, tail = reduce(key, token, logit, base, tail)
    batch = index // rows
    start = logits + batch.to(tl.int64) * batch_stride + (index % rows).to(tl.int64) * row_stride
    known = (mask_id >= 0) & (mask_id < vocabulary)
    barred = tl.load(start + mask_id, mask=known, other=float("-inf")).to(WIDE)
    tail = tail * tl.exp(base - logit) + tl.exp(barred - logit)
    tl.store(ids + index, token.to(tl.int64))
    tl.store(chosen + index, logit)
    tl.store(tails + index, tail)


def launch(
    logits: Tensor,
    mask_id: int,
    temperature: Tensor | None = None,
    hashes: Tensor | None = None,
    *,
    config: Configuration | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids int64, logits and tail masses `[B, R]` of `logits` `[B, R, V]`.

    Args:
        logits: Their last axis must be dense; float64 is computed in float64, all else in float32.
        mask_id: Token that is never the candidate.
        temperature: `[B]` float32 of drawn candidates; None is the arg-max.
        hashes: `[B, R]` int64 of `row_hash`, for drawn ones.
        config: Instead of the one in the table.
    """
    if logits.stride(-1) != 1:
        logits = logits.contiguous()
    batch, rows, vocabulary = logits.shape
    config = dict(config or configuration("statistics", batch * rows, logits.device))
    splits = config["SPLITS"]
    double = logits.dtype == torch.float64
    wide = torch.float64 if double else torch.float32
    number = tl.float64 if double else tl.float32
    parts = logits.new_empty(batch * rows, splits, 4, dtype=wide)
    tokens = logits.new_empty(batch * rows, splits, dtype=torch.int32)
    ids = logits.new_empty(batch, rows, dtype=torch.int64)
    chosen, tails = (logits.new_empty(batch, rows, dtype=wide) for _ in range(2))
    if not batch * rows:
        return ids, chosen, tails
    sizes = mask_id, vocabulary, rows, logits.stride(0), logits.stride(1)
    sampled = temperature is not None
    _split[(batch * rows, splits)](
        logits,
        None if hashes is None else hashes.contiguous(),
        temperature,
        parts,
        tokens,
        *sizes,
        SAMPLED=sampled,
        WIDE=number,
        **config,
    )
    padded = triton.next_power_of_2(splits)
    results = ids, chosen, tails
    merge[(batch * rows,)](
        logits,
        parts,
        tokens,
        *results,
        *sizes,
        SPLITS=splits,
        PADDED=padded,
        WIDE=number,
        num_warps=1,
    )
    return results
