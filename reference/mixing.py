"""Rows that are fed a mixture of tokens, where the module looks its tokens up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor


class MixedEmbeddings(TorchFunctionMode):
    """Replaces rows of the embeddings of `tokens` by weighted sums of others.

    Args:
        tokens: `[1, T]`, the tensor that the module is given.
        mixtures: Weights by token, by position.
    """

    def __init__(self, tokens: Tensor, mixtures: Mapping[int, Mapping[int, float]]) -> None:
        super().__init__()
        self._tokens = tokens
        self._mixtures = mixtures

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        looked_up = func in (F.embedding, torch.ops.aten.embedding.default)
        if not (self._mixtures and looked_up and any(a is self._tokens for a in args)):
            return result
        weight = next(a for a in args if isinstance(a, torch.Tensor) and a is not self._tokens)
        result = result.clone()
        for position, weights in self._mixtures.items():
            rows = [weight[token] * share for token, share in weights.items()]
            result[0, position] = torch.stack(rows).sum(0)
        return result
