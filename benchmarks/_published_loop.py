"""LLaDA's `generate` with a fixed number of tokens per step, as its authors published the rule.

A forward over the whole canvas, a float64 softmax over all of its logits, the surest masked rows
of the block commit. Written anew after arXiv 2502.09992 and the rules of its repository.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dllmc.spec import DenoiserSpec


@torch.no_grad()
def published_loop(
    module: nn.Module,
    spec: DenoiserSpec,
    prompts: list[list[int]],
    length: int,
    block: int,
    tokens_per_step: int,
) -> Tensor:
    """Responses `[B, length]` to prompts of equal length."""
    device = next(module.parameters()).device
    start = len(prompts[0])
    canvas = torch.full((len(prompts), start + length), spec.mask_id, device=device)
    canvas[:, :start] = torch.tensor(prompts, device=device)
    for low in range(start, start + length, block):
        for _ in range(block // tokens_per_step):
            masked = canvas == spec.mask_id
            logits = module(canvas)
            logits[..., spec.mask_id] = -torch.inf
            tokens = logits.argmax(-1)
            shares = torch.softmax(logits.to(torch.float64), dim=-1)
            confidence = shares.gather(-1, tokens[..., None]).squeeze(-1)
            confidence[:, low + block :] = -torch.inf
            confidence = torch.where(masked, confidence, -torch.inf)
            for row in range(len(canvas)):
                chosen = confidence[row].topk(tokens_per_step).indices
                canvas[row, chosen] = tokens[row, chosen]
    return canvas[:, start:]
