"""Caches reproduced without one: keys and values put back where attention is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SDPA_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
# By name: the operator is registered only once something imports `dllmc.kernels`.
CANONICAL = "dllmc.attention.default"
CANONICAL_ARGUMENTS = (
    "q",
    "k",
    "v",
    "scale",
    "key_limit",
    "query_positions",
    "key_positions",
    "bias",
    "mask",
)


@dataclass(frozen=True)
class Filter:
    """Which keys outside a block are kept: those that its rows attend to most.

    Attributes:
        block: Start and end.
        share: Of the keys outside, rounded down.
        kernel: Neighbours that a key's score is the maximum of.
    """

    block: tuple[int, int]
    share: float
    kernel: int

    def kept(self, query: Tensor, key: Tensor) -> Tensor:
        """`[T]` bool, from queries `[H, T, D]` and keys `[G, T, D]` of one layer."""
        start, end = self.block
        heads, length = query.shape[0], query.shape[1]
        key = key.repeat_interleave(heads // key.shape[0], dim=0)
        products = torch.einsum("hqd,hkd->hqk", query[:, start:end], key)
        scores = products.mean((0, 1)).tolist()
        outside = [p for p in range(length) if not start <= p < end]
        reach = self.kernel // 2
        pooled = [
            max(scores[p] for p in outside[max(0, i - reach) : i + reach + 1])
            for i in range(len(outside))
        ]
        count = int(len(outside) * self.share)
        best = sorted(range(len(outside)), key=lambda i: (-pooled[i], i))[:count]
        found = torch.zeros(length, dtype=torch.bool, device=query.device)
        found[[outside[i] for i in best]] = True
        return found


def _joined(seen: Tensor, mask: Tensor | None) -> Tensor:
    """What is seen by both."""
    if mask is None:
        return seen
    if mask.dtype == torch.bool:
        return mask & seen
    return mask.masked_fill(~seen, -torch.inf)


class AttentionMemory(TorchFunctionMode):
    """Lets a forward over the whole canvas see some positions only as remembered.

    Every call of `scaled_dot_product_attention`, or of `dllmc.attention` in a canonical graph, has
    its own memory within a forward: the K and V
    `[B, heads, T, head_dim]` that it read last. Before it reads K and V again, those outside the
    evaluated positions are replaced with the remembered ones. What the forward returns at
    positions that were not evaluated means nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.remembered: list[tuple[Tensor, Tensor]] = []
        self.kept: list[Tensor] = []
        self._filter: Filter | None = None
        self._reads_kept = False
        self._evaluated = torch.tensor(())
        self._limits: Tensor | None = None
        self._calls = 0

    def forward(
        self,
        module: nn.Module,
        tokens: Tensor,
        evaluated: Sequence[int],
        limits: Tensor | None = None,
        filtered: Filter | None = None,
        *,
        reads_kept: bool = False,
    ) -> Tensor:
        """What `module` returns for `tokens` `[B, T]` if it is run at `evaluated` only.

        The first time, and whenever nothing is to be remembered, `evaluated` is every position
        that any of them sees.

        Args:
            module: Whose attention is followed.
            tokens: The canvas.
            evaluated: Positions.
            limits: `[T]`, the first position that each row does not see, where the module itself
                attends to everything; None leaves its attention as it is.
            filtered: How to choose, in this forward, the keys outside a block that are kept.
            reads_kept: Whether only evaluated rows and kept keys are seen.

        Raises:
            ConfigError: The module's attention cannot be followed.
        """
        self._evaluated = torch.zeros(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        self._evaluated[list(evaluated)] = True
        self._limits = limits
        self._filter, self._reads_kept = filtered, reads_kept
        if filtered is not None:
            self.kept = []
        self._calls = 0
        with self:
            output: Tensor = module(tokens)
        if not self._calls or self._calls != len(self.remembered):
            raise ConfigError(
                f"the model called `scaled_dot_product_attention` {self._calls} times in a "
                f"forward where {len(self.remembered) or 'some'} were expected, and the "
                "reference follows a cache through these calls; give it the canonical graph, "
                "`dllmc.adapt(module, canonical=True)`, or use `cache.kind`='none'"
            )
        return output

    def truncate(self, length: int) -> None:
        """Forget positions from `length` on."""
        self.remembered = [(k[..., :length, :], v[..., :length, :]) for k, v in self.remembered]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        names: tuple[str, ...]
        if func is F.scaled_dot_product_attention:
            names, limit = SDPA_ARGUMENTS, "attn_mask"
        elif str(func) == CANONICAL:
            names, limit = CANONICAL_ARGUMENTS, "mask"
        else:
            return func(*args, **(kwargs or {}))
        named = dict(zip(names, args, strict=False)) | dict(kwargs or {})
        key, value = names[1:3]
        named[key], named[value] = self._recall(named[key], named[value])
        if self._filter is not None:
            self.kept.append(self._filter.kept(named[names[0]][0], named[key][0]))
        if self._reads_kept:
            seen = self._evaluated | self.kept[self._calls - 1]
            named[limit] = _joined(seen[None, None, None], named.get(limit))
        if self._limits is not None:
            order = torch.arange(named[key].shape[-2], device=self._limits.device)
            named[limit] = (order < self._limits[:, None])[None, None]
        return func(**named)

    def _recall(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if self._calls == len(self.remembered):
            self.remembered.append((key, value))
        old_key, old_value = self.remembered[self._calls]
        evaluated = self._evaluated[:, None]
        read = torch.where(evaluated, key, old_key), torch.where(evaluated, value, old_value)
        self.remembered[self._calls] = read
        self._calls += 1
        return read
