"""The axes of decoding, and what a member of each must provide.

A member has a tensor function over `Rows`, which the runtime calls and which never waits for the
device, and an oracle: the same rule in plain Python over `Prediction`s, which the reference
decoder calls. What a member reads of itself in a tensor function must be structural, since
sequences are grouped by it; everything else comes in `values`, one number per decision.

Confidence travels as *doubt*, lower is surer. For a probability p the doubt is the odds against,
(1 - p) / p, which is the tail mass of the head statistics: in float32 p itself saturates at 1 and
orders 12.8 % of one-token steps of a trained model wrongly, the doubt none.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch

from dllmc.policies._base import Policy
from dllmc.policies.standing import Evaluation
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress, Part, Standing
    from dllmc.spec import DenoiserSpec

Memory = dict[str, Any]
"""What the oracles of one sequence remember: a plain dictionary of their own making."""

_NOT_ODDS = "doubt that is no odds"
_NEEDS_ODDS = (
    "it compares probabilities, and this score has none; use `commit.kind`='quota', 'timesteps', "
    "'entropy' or 'entropy_bound'"
)


class Schedule(Policy):
    """Which rows may commit, as blocks decoded one after the other.

    Attributes:
        adapts: Whether a block's end is chosen from its first evaluation, by `end`.
        pipelined: Whether several blocks may be decoded at once, as `begun` and `active` say.
    """

    axis: ClassVar[str] = "schedule"
    adapts: ClassVar[bool] = False
    pipelined: ClassVar[bool] = False

    @abstractmethod
    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        """Start and end of each block, counted from the first response position."""

    def window(self, offset: int, response_length: int) -> int:
        """Positions offered to the first evaluation of the block at `offset`, if it adapts."""
        raise NotImplementedError

    def end(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        """Canvas position before which the block ends, `[N]` int64, from its first evaluation.

        It is asked in later ones too, where it must not end the block sooner.
        """
        raise NotImplementedError

    def end_oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> int:
        """The same for one sequence."""
        raise NotImplementedError

    def begun(
        self, spans: Sequence[tuple[int, int]], masked: Collection[int], begun: int, *, ended: bool
    ) -> int:
        """Blocks that are decoded side by side or were before, if it is a pipeline.

        Args:
            spans: Of all blocks.
            masked: Positions.
            begun: Blocks before the last evaluation; 0 at first.
            ended: Whether an end of sequence was committed, after which none is begun.
        """
        raise NotImplementedError

    def active(
        self, spans: Sequence[tuple[int, int]], masked: Collection[int], begun: int
    ) -> list[Part]:
        """What is decided over apart of the blocks that were begun, if it is a pipeline."""
        raise NotImplementedError


class Belief(Policy):
    """What is fed for undecided rows.

    This class feeds them the mask; members override what differs.
    """

    axis: ClassVar[str] = "belief"

    @property
    def width(self) -> int:
        """Tokens that are mixed in a row; 0 feeds token ids as they are.

        A policy with a width keeps `belief.ids` `[N, L, width]` and `belief.weights` in memory,
        which the next evaluation is fed with at masked rows; weights that are all 0, as at the
        start, feed the mask.
        """
        return 0

    def observe(self, rows: Rows, values: Mapping[str, Tensor]) -> tuple[Rows, Tensor | None]:
        """`rows` with new memory, and `[N]` bool: decisions that must not commit now."""
        del values
        return rows, None

    def mixtures(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> tuple[dict[int, dict[int, float]], bool]:
        """The oracle: weights by token, by position; and whether nothing may commit now."""
        del rows, progress, memory
        return {}, False


class Score(Policy):
    """What confidence means.

    Attributes:
        odds: Whether the doubt is the odds against a probability.
    """

    axis: ClassVar[str] = "score"
    odds: ClassVar[bool] = True

    @property
    def properties(self) -> frozenset[str]:
        return super().properties | (frozenset() if self.odds else {_NOT_ODDS})

    @abstractmethod
    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        """`rows` with their `doubt`; candidates and memory may change too."""

    @abstractmethod
    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        """The same for the offered rows of one decision, in float64."""


class Commit(Policy):
    """Which of the eligible rows commit now.

    Attributes:
        may_wait: Whether an evaluation may commit nothing; such a policy must end by itself.
        needs_odds: Whether it takes the doubt for the odds against a probability.
    """

    axis: ClassVar[str] = "commit"
    may_wait: ClassVar[bool] = False
    needs_odds: ClassVar[bool] = False

    @property
    def exclusions(self) -> Mapping[str, str]:
        own = {_NOT_ODDS: _NEEDS_ODDS} if self.needs_odds else {}
        return {**self.excludes, **own}

    @abstractmethod
    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        """Rows to commit, `[N, L]` bool.

        Need not guarantee progress and may select ineligible rows: `commit_rows` sees to both.
        """

    @abstractmethod
    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        """Indices to commit among eligible rows given in order of position."""

    def check(self, response_length: int, blocks: int) -> None:
        """Raise `ConfigError` if this cannot decode `response_length` tokens in `blocks`."""

    def drafts(self, progress: BlockProgress, lanes: int) -> list[int]:
        """Tokens that so many steps may have committed before each of them, from 0 on."""
        del progress
        return list(range(lanes))


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

    def room(self, standing: Standing) -> int:
        """Tokens that must commit before an evaluation would cover other rows than the next one.

        What verifies several steps in one evaluation must not go further.
        """
        del standing
        return 1

    def keeps(self, standing: Standing) -> tuple[float, int] | None:
        """Share of the keys outside the block that stay after the next evaluation, by saliency
        pooled over so many neighbours; None leaves all."""
        del standing
        return None

    def reads_kept(self, standing: Standing) -> bool:
        """Whether the next evaluation reads what was kept instead of everything."""
        del standing
        return False


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

    @property
    def properties(self) -> frozenset[str]:
        carries = {"carries"} if self.window_first == "carried" else set[str]()
        return super().properties | carries

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
        block = range(*standing.block)
        if not self.refreshes(standing.step, standing.committed):
            window = self.window(standing.block, standing.reach)
            return Evaluation(range(*window), block, False)
        head = block[:1] if self.commits_first(standing, spec) else block
        return Evaluation(range(standing.reach), head, True)

    def room(self, standing: Standing) -> int:
        if self.refreshes(standing.step, standing.committed):
            return 1
        left = len(standing.masked)
        return left if self.refresh_every is None else self.refresh_every - standing.committed

    def check_model(self, spec: DenoiserSpec) -> None:
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
    """How drafts are verified before they commit.

    This class is the policy that verifies nothing; members override what differs.
    """

    axis: ClassVar[str] = "verify"

    @property
    def lanes(self) -> int:
        """Canvases that are evaluated at once at most: the present one, and with drafts."""
        return 1

    @property
    def tree(self) -> bool:
        """Whether the canvases stand in one row, in scratch slots of their own."""
        return False

    def draft(self, rows: Rows) -> Rows:
        """`rows` with what is remembered of them for drafts."""
        return rows


class Stop(Policy):
    """When a row is finished before its canvas is full.

    Attributes:
        cuts: Whether the response ends at its first end-of-sequence token.
    """

    axis: ClassVar[str] = "stop"
    cuts: ClassVar[bool] = False

    @abstractmethod
    def finished(self, response: Tensor, mask_id: int, eos_ids: Tensor) -> Tensor:
        """`[B]` bool: rows of `response` `[B, T]` that need no more evaluation."""

    @abstractmethod
    def oracle(self, response: Sequence[int], mask_id: int, eos_ids: Sequence[int]) -> bool:
        """The same for one row."""

    def fills(self, rows: Rows, values: Mapping[str, Tensor]) -> tuple[Rows, Tensor | None]:
        """`rows` with new memory, and `[N]` bool: decisions whose eligible rows all commit now."""
        del values
        return rows, None

    def fills_oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> bool:
        """The same for one decision."""
        del rows, progress, memory
        return False

    def cut(
        self, rows: Rows, committed: Tensor, eos_ids: Tensor, values: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Canvas position before which each response now ends, `[N]` int64; large for not at all.

        Args:
            rows: Of the evaluation.
            committed: `[N, L]` bool, those that commit.
            eos_ids: End-of-sequence tokens.
            values: Knobs by name, `[N]`.
        """
        del rows, committed, eos_ids, values
        return None

    def cut_oracle(
        self,
        rows: Sequence[Prediction],
        committed: set[int],
        eos_ids: Sequence[int],
        progress: BlockProgress,
    ) -> int | None:
        """The same for one decision; `committed` are positions."""
        del rows, committed, eos_ids, progress
        return None


class Constrain(Policy):
    """What the output must match.

    This class is the policy that allows everything; members override what differs.
    """

    axis: ClassVar[str] = "constrain"


class Revision(NamedTuple):
    """What happens to committed rows, `[N, L]` bool each: their candidate, or the mask again."""

    replaced: Tensor
    reopened: Tensor


class Revise(Policy):
    """Whether committed tokens may be taken back or replaced.

    This class is the policy that never does; members override what differs.

    Attributes:
        reopens: Whether it may mask committed tokens again.
    """

    axis: ClassVar[str] = "revise"
    reopens: ClassVar[bool] = False

    def select(
        self, rows: Rows, committed: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Rows, Revision]:
        """`rows` with new memory, and what happens to those committed before.

        Args:
            rows: Of the evaluation.
            committed: `[N, L]` bool, those that commit now.
            values: Knobs by name, `[N]`.
        """
        del values
        nothing = torch.zeros_like(committed)
        return rows, Revision(nothing, nothing)

    def oracle(
        self,
        rows: Sequence[Prediction],
        committed: set[int],
        progress: BlockProgress,
        memory: Memory,
    ) -> tuple[set[int], set[int]]:
        """The same for one decision, as positions: replaced, and masked again.

        Args:
            rows: All that were offered.
            committed: Positions that commit now.
            progress: Of the block.
            memory: Of this policy.
        """
        del rows, committed, progress, memory
        return set(), set()

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
