"""The axes of decoding, and what a member of each must provide.

A member has a tensor function, which the runtime calls and which never waits for the device, and
an oracle: the same rule in plain Python over lists, which the reference decoder calls.

Confidence travels as *doubt*, lower is surer. For a probability p the doubt is the odds against,
(1 - p) / p, which is the tail mass of the head statistics: in float32 p itself saturates at 1 and
orders 12.8 % of one-token steps of a trained model wrongly, the doubt none.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True, slots=True)
class BlockProgress:
    """Where a row stands in its block.

    Attributes:
        step: Evaluations of this block that have committed, 0 at the first.
        masks: Masked positions of the block when it began.
        blocks: Blocks of the whole response.
    """

    step: int
    masks: int
    blocks: int


class Schedule(Policy):
    """Which rows may commit, as blocks decoded one after the other."""

    axis: ClassVar[str] = "schedule"

    @abstractmethod
    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        """Start and end of each block, counted from the first response position."""


class Belief(Policy):
    """What is fed for undecided rows."""

    axis: ClassVar[str] = "belief"


class Score(Policy):
    """What confidence means."""

    axis: ClassVar[str] = "score"

    @abstractmethod
    def doubt(self, tail_mass: Tensor) -> Tensor:
        """Doubt `[B, R]` from the tail mass `[B, R]` of the candidates; lower is surer."""

    @abstractmethod
    def oracle(self, tail_mass: Sequence[float]) -> list[float]:
        """The same for one row, in float64."""


class Commit(Policy):
    """Which of the eligible rows commit now."""

    axis: ClassVar[str] = "commit"

    @abstractmethod
    def values(self, progress: BlockProgress) -> dict[str, float]:
        """The knobs of one row as numbers; the runtime stacks them into tensors `[B]`."""

    @staticmethod
    @abstractmethod
    def select(doubt: Tensor, eligible: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Rows to commit, `[B, R]` bool, from doubt `[B, R]` and eligible `[B, R]` bool.

        Need not guarantee progress and may select ineligible rows: `commit_rows` sees to both.
        """

    @abstractmethod
    def oracle(self, doubt: Sequence[float], progress: BlockProgress) -> set[int]:
        """Indices to commit among eligible rows given in order of position."""

    def check(self, response_length: int, blocks: int) -> None:
        """Raise `ConfigError` if this cannot decode `response_length` tokens in `blocks`."""


class Cache(Policy):
    """Which rows an evaluation covers; keys of other rows are remembered."""

    axis: ClassVar[str] = "cache"
    refresh_every: int | None = None

    @abstractmethod
    def window(self, block: tuple[int, int], length: int) -> tuple[int, int]:
        """Start and end of the rows evaluated between refreshes.

        Args:
            block: Start and end of the current block, as canvas positions.
            length: Canvas length.
        """

    @abstractmethod
    def oracle(self, position: int, block: tuple[int, int], length: int) -> bool:
        """Whether `position` is evaluated between refreshes."""

    def refreshes(self, step: int, committed: int) -> bool:
        """Whether the next evaluation covers the whole canvas.

        Args:
            step: Evaluations already made in this block.
            committed: Tokens committed since the last refresh, its own commits included.
        """
        due = self.refresh_every is not None and committed >= self.refresh_every
        return step == 0 or due

    def check(self, spec: DenoiserSpec) -> None:
        """Raise `ConfigError` if this cannot serve the denoiser that `spec` describes."""


class Verify(Policy):
    """How drafts are verified before they commit."""

    axis: ClassVar[str] = "verify"


class Stop(Policy):
    """When a row is finished before its canvas is full."""

    axis: ClassVar[str] = "stop"

    @abstractmethod
    def finished(self, response: Tensor, mask_id: int, eos_ids: Tensor) -> Tensor:
        """`[B]` bool: rows of `response` `[B, T]` that need no more evaluation."""

    @abstractmethod
    def oracle(self, response: Sequence[int], mask_id: int, eos_ids: Sequence[int]) -> bool:
        """The same for one row."""


class Constrain(Policy):
    """What the output must match."""

    axis: ClassVar[str] = "constrain"


class Revise(Policy):
    """Whether committed tokens may be taken back."""

    axis: ClassVar[str] = "revise"


AxisName = Literal[
    "schedule", "belief", "score", "commit", "cache", "verify", "stop", "constrain", "revise"
]
AXES: dict[str, type[Policy]] = {
    axis.axis: axis
    for axis in (Schedule, Belief, Score, Commit, Cache, Verify, Stop, Constrain, Revise)
}


def commit_rows(
    policy: type[Commit], doubt: Tensor, eligible: Tensor, values: Mapping[str, Tensor]
) -> Tensor:
    """What `policy` selects, and the surest eligible row in any case.

    The progress guarantee of every commit policy: a row of the batch with anything eligible
    commits at least one. Ties go to the lowest position.
    """
    surest = _eligible_first(doubt, eligible).argmin(dim=-1, keepdim=True)
    at_least = torch.zeros_like(eligible).scatter(-1, surest, True)
    return (policy.select(doubt, eligible, values) | at_least) & eligible


def commit_oracle(policy: Commit, doubt: Sequence[float], progress: BlockProgress) -> set[int]:
    """The same for one row, over its eligible rows only."""
    if not doubt:
        return set()
    surest = min(range(len(doubt)), key=lambda index: (doubt[index], index))
    return policy.oracle(doubt, progress) | {surest}


def rank(doubt: Tensor, eligible: Tensor) -> Tensor:
    """Place of each row, `[B, R]` int64, surest first; ineligible rows come last."""
    ordered = _eligible_first(doubt, eligible).argsort(dim=-1, stable=True)
    return ordered.argsort(dim=-1)


def _eligible_first(doubt: Tensor, eligible: Tensor) -> Tensor:
    """Doubts to order by: an eligible row may have infinite doubt and yet comes first."""
    return torch.where(eligible, doubt.clamp(max=torch.finfo(doubt.dtype).max), torch.inf)
