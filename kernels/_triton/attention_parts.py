"""Parts of attention over shares of the keys: how many there are, and how they become one."""

from __future__ import annotations

import functools
from typing import Final

import torch
import triton
import triton.language as tl

_MOST_SPLITS: Final = 32
_PROGRAMS_EACH: Final = 2  # per multiprocessor: their loads hide one another's latency
_UNKNOWN_MULTIPROCESSORS: Final = 132  # an H100's


@triton.jit
def merge(
    parts,
    sums,
    out,
    VALUE_WIDTH: tl.constexpr,
    VALUE_PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    PADDED_SPLITS: tl.constexpr,
):
    """One query of its parts; those without keys are not read."""
    query = tl.program_id(0).to(tl.int64)
    splits = tl.arange(0, PADDED_SPLITS)
    lanes = tl.arange(0, VALUE_PADDED)
    place = query * SPLITS + splits
    top = tl.load(sums + place * 2, mask=splits < SPLITS, other=float("-inf"))
    total = tl.load(sums + place * 2 + 1, mask=splits < SPLITS, other=0.0)
    highest = tl.max(top, 0)
    finite = tl.where(highest == float("-inf"), 0.0, highest)
    weights = tl.exp2(top - finite)
    whole = tl.sum(weights * total, 0)
    held = (total > 0)[:, None] & (lanes < VALUE_WIDTH)[None]
    part = tl.load(parts + place[:, None] * VALUE_WIDTH + lanes[None], mask=held, other=0.0)
    gathered = tl.sum(part * weights[:, None], 0)
    result = gathered / tl.where(whole > 0, whole, 1.0)
    at = out + query * VALUE_WIDTH + lanes
    tl.store(at, result.to(out.dtype.element_ty), mask=lanes < VALUE_WIDTH)


def splits_of(programs: int, slots: int, block: int, device: torch.device) -> int:
    """Among how many programs each head's keys are split, of shapes alone."""
    wanted = _PROGRAMS_EACH * _multiprocessors(device) // programs
    return max(1, min(wanted, int(triton.cdiv(slots, 2 * block)), _MOST_SPLITS))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _UNKNOWN_MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
