"""Statistics of logits that only some decoding policies ask for; see `head_statistics.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.kernels._library import define
from dllmc.kernels.rms_norm import HALF

if TYPE_CHECKING:
    from torch import Tensor


@define("entropy(Tensor logits) -> Tensor")
def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the softmax of each row of `[B, R, V]`: `[B, R]` in float32 or better.

    With the tail mass s of the largest logit, log(1 + s) plus the tail's mean distance: exact
    for rows that are so sure that their probability rounds to 1.
    """
    logits = logits.float() if logits.dtype in HALF else logits
    largest, best = logits.max(dim=-1, keepdim=True)
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    distance = torch.where(tokens == best, torch.inf, largest - logits)
    weights = torch.exp(-distance)
    tail = weights.sum(-1)
    # Where a weight is 0 its distance may be infinite.
    spread = torch.where(weights > 0, weights * distance, 0.0).sum(-1)
    return torch.log1p(tail) + spread / (1 + tail)


@define("second(Tensor logits, Tensor ids, int mask_id) -> Tensor")
def second(logits: Tensor, ids: Tensor, mask_id: int) -> Tensor:
    """The largest logit `[B, R]` of tokens that are neither `ids` `[B, R]` nor the mask."""
    logits = logits.float() if logits.dtype in HALF else logits
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    barred = (tokens == ids[..., None]) | (tokens == mask_id)
    return torch.where(barred, -torch.inf, logits).amax(-1)


@define("top(Tensor logits, int mask_id, int count) -> (Tensor, Tensor)")
def top(logits: Tensor, mask_id: int, count: int) -> tuple[Tensor, Tensor]:
    """The `count` most probable tokens but the mask, and their logits, `[B, R, count]` each.

    Of fewer tokens than that the rest are mask tokens with a logit of minus infinity.
    """
    logits = logits.float() if logits.dtype in HALF else logits
    tokens = torch.arange(logits.shape[-1], device=logits.device)
    allowed = torch.where(tokens == mask_id, -torch.inf, logits)
    held = min(count, logits.shape[-1])
    values, ids = allowed.topk(held, dim=-1)
    pad = (0, count - held)
    ids = torch.nn.functional.pad(ids, pad, value=mask_id)
    return ids, torch.nn.functional.pad(values, pad, value=-torch.inf)


@define("gather_logits(Tensor logits, Tensor ids) -> Tensor")
def gather_logits(logits: Tensor, ids: Tensor) -> Tensor:
    """The logits of `ids` `[B, R, k]`: `[B, R, k]`."""
    logits = logits.float() if logits.dtype in HALF else logits
    return torch.gather(logits, -1, ids)


@define("all_logits(Tensor logits) -> Tensor")
def all_logits(logits: Tensor) -> Tensor:
    """The logits themselves, in float32 or better."""
    return logits.float() if logits.dtype in HALF else logits.clone()
