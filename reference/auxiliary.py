"""What an autoregressive model says of a canvas, in the plainest form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn


def next_tokens(module: nn.Module, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Logits `[T, V]` of what follows each token, by one forward over all of them."""
    device = next(module.parameters()).device
    with torch.no_grad():
        logits: torch.Tensor = module(torch.tensor([list(tokens)], device=device))
    array: NDArray[np.float64] = logits[0].double().cpu().numpy()
    return array


def greedy_continuation(
    module: nn.Module, prompt: Sequence[int], length: int, *, mask_id: int
) -> list[int]:
    """The most probable token, one after the other; never the mask."""
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(greedy_token(next_tokens(module, tokens)[-1], mask_id))
    return tokens[len(prompt) :]


def greedy_token(logits: NDArray[np.float64], mask_id: int) -> int:
    """The most probable token but the mask."""
    allowed = logits.copy()
    allowed[mask_id] = float("-inf")
    return int(allowed.argmax())
