"""The rival: a plain decoder as papers publish it, one full-canvas forward per evaluation.

Batched PyTorch over the denoiser, float64 softmax over the block's logits, threshold commit with
the surest row at least, blocks from left to right, a row stops at an end token with no mask
before it. No cache and no compilation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllmc.spec import DenoiserSpec


def decode(
    module: nn.Module,
    spec: DenoiserSpec,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    block_length: int,
    threshold: float,
) -> tuple[Tensor, int]:
    """Responses `[B, max_new_tokens]` to prompts of equal length, and the number of forwards."""
    start, device = len(prompts[0]), next(module.parameters()).device
    canvas = torch.full((len(prompts), start + max_new_tokens), spec.mask_id, device=device)
    canvas[:, :start] = torch.tensor(prompts, device=device)
    eos, forwards = torch.tensor(spec.eos_ids, device=device), 0
    for low in range(start, canvas.shape[1], block_length):
        block = slice(low, min(low + block_length, canvas.shape[1]))
        while True:
            masked = canvas[:, block] == spec.mask_id
            open_before = (canvas[:, start:] == spec.mask_id).cumsum(1) == 0
            ended = (torch.isin(canvas[:, start:], eos) & open_before).any(1)
            masked &= ~ended[:, None]
            if not masked.any():
                break
            rows = masked.any(1).nonzero()[:, 0]
            logits = module(canvas[rows])[:, block].double()
            forwards += 1
            probabilities = logits.softmax(-1)
            logits[..., spec.mask_id] = -torch.inf
            tokens = logits.argmax(-1)
            confidence = probabilities.gather(-1, tokens[..., None])[..., 0]
            confidence = confidence.masked_fill(~masked[rows], -1)
            chosen = confidence >= threshold
            chosen |= torch.nn.functional.one_hot(confidence.argmax(1), chosen.shape[1]).bool()
            part = canvas[rows, block]
            canvas[rows, block] = torch.where(chosen & masked[rows], tokens, part)
    return canvas[:, start:], forwards
