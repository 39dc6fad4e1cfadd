"""The axis `cache`: which rows an evaluation covers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import Policy
from dllmc.policies.standing import Evaluation
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec


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

    def room(self, standing: Standing, spec: DenoiserSpec) -> int:
        """Tokens that must commit before an evaluation would cover other rows than the next one.

        What verifies several steps in one evaluation must not go further.
        """
        del standing, spec
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

    def room(self, standing: Standing, spec: DenoiserSpec) -> int:
        del spec
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
