"""What an evaluation says of the rows that may commit, in tensors and in plain Python."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Remembered(NamedTuple):
    """What a policy keeps from one evaluation to the next.

    Attributes:
        shape: Of one entry.
        dtype: As torch spells it.
        fill: Value at the start.
        per: One entry for every canvas `position`, or one for the `sequence`.
    """

    shape: tuple[int, ...]
    dtype: str
    fill: float
    per: Literal["position", "sequence"] = "position"


@dataclass(frozen=True)
class Rows:
    """The rows of N decisions, L each; a sequence that decodes one block has one decision.

    Attributes:
        mask_id: Of the denoiser.
        positions: `[N, L]` int64, on the canvas; padding has the scratch position.
        tokens: `[N, L]` int64, what stands there.
        offered: `[N, L]` bool, not padding.
        masked: `[N, L]` bool, offered and masked.
        eligible: `[N, L]` bool, masked and allowed to commit.
        ids: `[N, L]` int64, candidates; never the mask.
        logits: `[N, L]`, of the candidates, without noise.
        tail: `[N, L]`, tail mass: the odds against the candidate.
        doubt: `[N, L]`, what the score makes of it; lower is surer.
        single: `[N]` bool, offered one row alone, which then commits.
        waits: `[N]` bool, may commit nothing.
        counters: `[N, 3]` int64: seed, stream and evaluations before this one, for noise.
        order: `[N, L]`, what rows come first by, lower first, where that is not the doubt.
        noised: `[N, L]` int64, positions whose noise the candidates were drawn with.
        temperature: `[N]`, at which they were drawn; None where none was.
        total: `[N, L]`, log of the summed exponentials of all logits, whatever a policy makes of
            candidates; None where it follows from the candidate's logit and tail mass.
        extra: Statistics that policies have asked for, by name: `entropy` and `second` (the
            logit of the next best token) `[N, L]`, `top_ids` and `top_logits` `[N, L, k]`,
            `gathered` `[N, L, k]`, and `all` logits `[N, L, V]`.
        memory: What policies remember, by name: `[N, L, ...]`, or `[N, ...]` per sequence.
        vocab_size: Of the denoiser.
    """

    mask_id: int
    positions: Tensor
    tokens: Tensor
    offered: Tensor
    masked: Tensor
    eligible: Tensor
    ids: Tensor
    logits: Tensor
    tail: Tensor
    doubt: Tensor
    single: Tensor
    waits: Tensor
    counters: Tensor
    order: Tensor | None = None
    noised: Tensor | None = None
    temperature: Tensor | None = None
    total: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    vocab_size: int = 0

    def having(self, **changes: Any) -> Rows:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def remembering(self, **changes: Tensor) -> Rows:
        """A copy with some of the memory changed; `__` in a name stands for a dot."""
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return dataclasses.replace(self, memory={**self.memory, **named})


@dataclass
class Prediction:
    """What an evaluation says of one position: a row of `Rows`, for the oracles.

    Attributes:
        position: On the canvas.
        token: What stands there.
        masked: Whether that is the mask.
        candidate: The most probable token (of noised logits when sampling), never the mask.
        logit: Of the candidate, without noise.
        margin: By how much the candidate's logit, with noise, leads the next one's.
        tail_mass: Odds against the candidate.
        doubt: What the score makes of it.
        logits: `[V]` float64, without noise; equality leaves them out.
        counters: Seed, stream and evaluations before this one, for noise.
        noised: Position whose noise the candidate was drawn with.
        temperature: At which it was drawn.
        order: What rows come first by, lower first, where that is not the doubt.
        mask_id: Of the denoiser.
    """

    position: int
    token: int
    masked: bool
    candidate: int
    logit: float
    margin: float
    tail_mass: float
    doubt: float
    logits: NDArray[np.float64] = field(compare=False)
    counters: tuple[int, int, int] = (0, 0, 0)
    noised: int = 0
    temperature: float = 0.0
    order: float | None = None
    mask_id: int | None = None

    def having(self, **changes: Any) -> Prediction:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
