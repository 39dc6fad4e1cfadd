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
from typing import TYPE_CHECKING, ClassVar

from dllmc.policies._axes_after import Constrain, Revise, Revision, Stop, Verify
from dllmc.policies._axis_cache import Cache, Refreshing
from dllmc.policies._base import Policy
from dllmc.policies._memory import Memory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress, Part

_NOT_ODDS = "doubt that is no odds"
_NO_ORDER, _NO_COUNT = "order not foreseen", "commits not foreseen"
_ANY_ORDER = "any order"
_NEEDS_ODDS = (
    "it compares probabilities, and this score has none; use `commit.kind`='quota', 'timesteps', "
    "'entropy' or 'entropy_bound'"
)


__all__ = [
    "AXES",
    "Belief",
    "Cache",
    "Commit",
    "Constrain",
    "Memory",
    "Refreshing",
    "Revise",
    "Revision",
    "Schedule",
    "Score",
    "Stop",
    "Verify",
]


class Schedule(Policy):
    """Which rows may commit, as blocks decoded one after the other.

    Attributes:
        adapts: Whether a block's end is chosen from its first evaluation, by `end`.
        slides: Whether the block moves on with the first masked position, by `blocks`' length.
        pipelined: Whether several blocks may be decoded at once, as `begun` and `active` say.
    """

    axis: ClassVar[str] = "schedule"
    adapts: ClassVar[bool] = False
    pipelined: ClassVar[bool] = False
    slides: ClassVar[bool] = False

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
        foreseen: Whether the order of rows is known before they are evaluated, by `ranked`.
    """

    axis: ClassVar[str] = "score"
    odds: ClassVar[bool] = True
    foreseen: ClassVar[bool] = False

    @property
    def properties(self) -> frozenset[str]:
        blind = frozenset[str]() if self.foreseen else {_NO_ORDER}
        return super().properties | blind | (frozenset() if self.odds else {_NOT_ODDS})

    def ranked(self, positions: Iterable[int], counters: tuple[int, int, int]) -> list[int]:
        """Masked positions in their order, if it is foreseen; `counters` as those of `Rows`."""
        raise NotImplementedError

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
        foreseen: Whether the order of rows alone says which commit, by `coming`.
        leftmost: Whether they are the first masked ones, whatever their order.
    """

    axis: ClassVar[str] = "commit"
    may_wait: ClassVar[bool] = False
    needs_odds: ClassVar[bool] = False
    foreseen: ClassVar[bool] = False
    leftmost: ClassVar[bool] = False

    @property
    def properties(self) -> frozenset[str]:
        blind = frozenset[str]() if self.foreseen else {_NO_COUNT}
        return super().properties | blind | (frozenset() if self.leftmost else {_ANY_ORDER})

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

    def coming(self, ranked: Sequence[int], progress: BlockProgress) -> Sequence[int]:
        """Which of a block's masked positions commit, at least one, if that is foreseen."""
        raise NotImplementedError

    def drafts(self, progress: BlockProgress, lanes: int) -> list[int]:
        """Tokens that so many steps may have committed before each of them, from 0 on."""
        del progress
        return list(range(lanes))


AXES: dict[str, type[Policy]] = {
    axis.axis: axis
    for axis in (Schedule, Belief, Score, Commit, Cache, Verify, Stop, Constrain, Revise)
}
