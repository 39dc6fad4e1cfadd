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
from dllmc.spec import ConfigError

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
        remaining: Masked positions of the block now.
        length: Positions of the block, those of the prompt included where a block of
            block-causal attention holds its end.
    """

    step: int
    masks: int
    blocks: int
    remaining: int = 0
    length: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a sequence stands, for the cache policy to decide what to evaluate next.

    Positions are those of the canvas, spans are start and end.

    Attributes:
        block: The positions that are decoded.
        whole: The same block with the part of it that the prompt fills.
        outer: The block of block-causal attention around it; the canvas with full attention.
        reach: What lies before this position is all that the block can see.
        step: Evaluations of the block so far.
        outer_steps: Evaluations of the outer block so far.
        committed: Tokens committed since the last refresh, its own commits included.
        first_masked: Whether the first position of the whole block is still masked.
        exact: Before this position, keys and values are those of the final tokens; only kept
            for block-causal attention.
    """

    block: tuple[int, int]
    whole: tuple[int, int]
    outer: tuple[int, int]
    reach: int
    step: int
    outer_steps: int
    committed: int
    first_masked: bool
    exact: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate, and what may commit from it.

    Attributes:
        rows: Positions evaluated.
        head: Positions that may commit; none where start and end are equal. A single one commits
            whatever the commit policy says.
        refresh: Whether it renews what the cache remembers of the rows outside the block.
    """

    rows: tuple[int, int]
    head: tuple[int, int]
    refresh: bool


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
    """Which of the eligible rows commit now.

    Attributes:
        may_wait: Whether an evaluation may commit nothing; such a policy must end by itself.
    """

    axis: ClassVar[str] = "commit"
    may_wait: ClassVar[bool] = False

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

    @abstractmethod
    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        """The next evaluation of a sequence."""

    @abstractmethod
    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        """The same said position by position: those evaluated, those that may commit, and
        whether it is a refresh."""

    def check(self, spec: DenoiserSpec) -> None:
        """Raise `ConfigError` if this cannot serve the denoiser that `spec` describes."""


class Refreshing(Cache):
    """A cache that is renewed by evaluating all that a block can see, at its start and on demand.

    Attributes:
        refresh_every: Refresh also when so many tokens were committed since the last refresh.
        refresh_commits: What a refresh at a block's start commits: by the `policy`, or the
            block's `first` token only; `auto` takes `first` where logits are shifted.
        window_first: With shifted logits, a window's first row predicts itself (`self`, as
            published) or gets what the row before predicted at the last refresh (`carried`).
    """

    refresh_every: int | None = None
    refresh_commits: Literal["auto", "policy", "first"] = "auto"
    window_first: Literal["self", "carried"] = "self"

    @abstractmethod
    def window(self, block: tuple[int, int], reach: int) -> tuple[int, int]:
        """Start and end of the rows evaluated between refreshes."""

    def refreshes(self, step: int, committed: int) -> bool:
        """Whether the next evaluation is a refresh.

        Args:
            step: Evaluations already made in this block.
            committed: Tokens committed since the last refresh, its own commits included.
        """
        due = self.refresh_every is not None and committed >= self.refresh_every
        return step == 0 or due

    def commits_first(self, standing: Standing, spec: DenoiserSpec) -> bool:
        """Whether the next evaluation commits the block's first token alone."""
        wanted = self.refresh_commits == "first" or (
            self.refresh_commits == "auto" and bool(spec.logit_shift)
        )
        return wanted and standing.step == 0

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        start, end = standing.block
        if not self.refreshes(standing.step, standing.committed):
            return Evaluation(self.window(standing.block, standing.reach), (start, end), False)
        head = (start, start + 1) if self.commits_first(standing, spec) else (start, end)
        return Evaluation((0, standing.reach), head, True)

    def check(self, spec: DenoiserSpec) -> None:
        if self.refresh_commits == "first" and not spec.logit_shift:
            raise ConfigError(
                "`cache.refresh_commits`='first' is the rule of models with shifted logits, which "
                "this one has not; use 'auto' or 'policy'"
            )
        if self.window_first == "carried" and not spec.logit_shift:
            raise ConfigError(
                "`cache.window_first`='carried' is for models with shifted logits, which this one "
                "has not; use 'self'"
            )


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
    """Whether committed tokens may be taken back or replaced.

    This class is the policy that never does; members override what differs.
    """

    axis: ClassVar[str] = "revise"

    def values(self) -> dict[str, float]:
        """The knobs as numbers; the runtime stacks them into tensors `[B]`."""
        return {}

    @staticmethod
    def select(doubt: Tensor, changed: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Committed rows to replace by their candidates, `[B, R]` bool.

        Args:
            doubt: `[B, R]`, of the candidates.
            changed: `[B, R]` bool, committed rows whose candidate is another token.
            values: Knobs by name, `[B]`.
        """
        del doubt, values
        return torch.zeros_like(changed)

    def oracle(self, doubt: Sequence[float]) -> set[int]:
        """The same for one row, over the rows whose candidate is another token."""
        del doubt
        return set()

    def settled(self, masks: int, revised: int, unmasked_steps: int) -> bool:
        """Whether a block without masks is finished.

        Args:
            masks: Masked positions of the block before the last evaluation.
            revised: Tokens that the last evaluation replaced.
            unmasked_steps: Evaluations that the block has had without masks.
        """
        del masks, revised, unmasked_steps
        return True


AXES: dict[str, type[Policy]] = {
    axis.axis: axis
    for axis in (Schedule, Belief, Score, Commit, Cache, Verify, Stop, Constrain, Revise)
}


def commit_rows(
    policy: type[Commit],
    doubt: Tensor,
    eligible: Tensor,
    values: Mapping[str, Tensor],
    single: Tensor | None = None,
) -> Tensor:
    """What `policy` selects, and the surest eligible row in any case.

    The progress guarantee of every commit policy: a sequence with anything eligible commits at
    least one, unless the policy may wait. Ties go to the lowest position.

    Args:
        policy: Of all sequences.
        doubt: `[B, R]`.
        eligible: `[B, R]` bool.
        values: The policy's knobs by name, `[B]`.
        single: `[B]` bool, sequences that were offered one row alone, which then commits; None
            is none of them.
    """
    surest = _eligible_first(doubt, eligible).argmin(dim=-1, keepdim=True)
    at_least = torch.zeros_like(eligible).scatter(-1, surest, True)
    if policy.may_wait:
        at_least = at_least & single[:, None] if single is not None else at_least & False
    return (policy.select(doubt, eligible, values) | at_least) & eligible


def commit_oracle(
    policy: Commit, doubt: Sequence[float], progress: BlockProgress, *, single: bool = False
) -> set[int]:
    """The same for one sequence, over its eligible rows only."""
    if not doubt:
        return set()
    chosen = policy.oracle(doubt, progress)
    if policy.may_wait and not single:
        return chosen
    return chosen | {min(range(len(doubt)), key=lambda index: (doubt[index], index))}


def rank(doubt: Tensor, eligible: Tensor) -> Tensor:
    """Place of each row, `[B, R]` int64, surest first; ineligible rows come last."""
    ordered = _eligible_first(doubt, eligible).argsort(dim=-1, stable=True)
    return ordered.argsort(dim=-1)


def _eligible_first(doubt: Tensor, eligible: Tensor) -> Tensor:
    """Doubts to order by: an eligible row may have infinite doubt and yet comes first."""
    return torch.where(eligible, doubt.clamp(max=torch.finfo(doubt.dtype).max), torch.inf)
