"""What held-out prompts say of configurations, one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dllmc.autotune import noninferiority
from dllmc.autotune.job import describe
from dllmc.autotune.search import FINISHED
from dllmc.autotune.sizing import CONFIRM_UNTIL
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dllmc.autotune.evaluator import Batch
    from dllmc.autotune.job import Job
    from dllmc.autotune.retiming import Timed
    from dllmc.tuning_db import Reject


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the confirm prompts say of one configuration.

    Attributes:
        config: It.
        n: Prompts judged.
        wins: Of these, right only with it.
        losses: Of these, right only with the reference.
        lower_bound: One-sided lower bound of the difference, of 95 % confidence; for a front all
            bounds hold together with that.
        p_value: Of a loss of at least the margin.
        passed: Whether the loss is under the margin beyond doubt.
        reason: Why it did not pass.
        level: That `p_value` was not to exceed: its part of an error of 5 %.
    """

    config: DecodingConfig
    n: int
    wins: int
    losses: int
    lower_bound: float
    p_value: float
    passed: bool
    reason: str | None = None
    level: float = noninferiority.ALPHA

    @property
    def difference(self) -> float:
        """Share of right answers, this configuration's minus the reference's."""
        return (self.wins - self.losses) / self.n if self.n else 0.0


@dataclass(frozen=True, slots=True)
class Member:
    """A configuration of a front, judged on confirm prompts.

    Attributes:
        timed: It, with fresh timings.
        verdict: Whether it keeps the margin.
        interval: Of the difference in right answers; those of all members hold together with
            95 % confidence.
        dominated: Whether another was at least as fast and as good, and not equal.
    """

    timed: Timed
    verdict: Verdict
    interval: tuple[float, float]
    dominated: bool


@dataclass(slots=True)
class Confirmation:
    """The outcome of a confirmation.

    Attributes:
        prompts: The confirm prompts, in the order in which they were decoded.
        verdicts: In the order of testing.
        winner: The fastest that passed, or None.
        reject: Why there is no winner, in one word.
        reason: The same in full.
        seed: Of the prompts.
        front: Members of a front, slowest first; empty where one configuration is picked.
        test: Name of the test.
    """

    prompts: list[Batch] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    winner: Timed | None = None
    reject: Reject | None = None
    reason: str | None = None
    seed: int = 0
    front: list[Member] = field(default_factory=list)
    test: str = noninferiority.TEST

    @property
    def published(self) -> list[Timed]:
        """What gets a record: the winner, and behind it what else of a front has passed."""
        others = [member.timed for member in self.front[::-1] if member.verdict.passed]
        return others or ([] if self.winner is None else [self.winner])


def decode_in_time(
    job: Job,
    prompts: Sequence[Batch],
    wanted: Callable[[int], Sequence[DecodingConfig]],
    most: int,
) -> Iterator[int]:
    """Decode `prompts` batch by batch as long as there is time; yields how many were.

    Args:
        job: The job.
        prompts: In their order.
        wanted: What to decode with, besides the reference and the baseline, after so many
            prompts; nothing ends it.
        most: Prompts that are planned.
    """
    evaluator, n, longest = job.evaluator, 0, 0.0
    for batch in prompts:
        active = wanted(n)
        # The baseline is decoded along, for the report.
        every = (QUALITY_REFERENCE, *active, SPEED_BASELINE)
        missing = [config for config in every if not evaluator.knows(config, batch)]
        late = job.budget.left(CONFIRM_UNTIL) <= 0 or job.budget.left() < longest
        if not active or (missing and late):
            return
        begun = job.budget.spent
        for config in missing:
            if not evaluator.knows(config, batch):  # the baseline may stand in it twice
                evaluator.decode(config, batch)
        longest = max(longest, job.budget.spent - begun)
        n += len(batch.ids)
        job.tell("confirmation", n, most)
        yield n


def count(
    job: Job, prompts: Sequence[Batch], config: DecodingConfig, size: int
) -> tuple[int, int, int]:
    """Wins, losses and prompts among the first `size` that reference and `config` decoded."""
    reference, own = job.evaluator.outcomes(QUALITY_REFERENCE), job.evaluator.outcomes(config)
    wins = losses = n = 0
    for name in [name for batch in prompts for name in batch.ids][:size]:
        if name not in reference or name not in own:
            break
        n += 1
        wins += own[name].correct > reference[name].correct
        losses += own[name].correct < reference[name].correct
    return wins, losses, n


def judge(
    job: Job,
    prompts: Sequence[Batch],
    config: DecodingConfig,
    size: int,
    *,
    alpha: float = noninferiority.ALPHA,
    bound_alpha: float | None = None,
    planned: int | None = None,
) -> Verdict:
    """What prompts say of a configuration.

    Args:
        job: The job.
        prompts: In the order in which they were decoded.
        config: The configuration.
        size: Prompts that count at most.
        alpha: Error that is allowed.
        bound_alpha: That of the lower bound; None is the same.
        planned: Prompts that were to count; None if `size`.
    """
    margin = job.settings.margin
    wins, losses, n = count(job, prompts, config, size)
    planned = planned or size
    if not n:
        late = "there was no time to confirm it"
        return Verdict(config, 0, 0, 0, -1.0, 1.0, False, late, alpha)
    p_value = noninferiority.p_value(wins, losses, n, margin, alpha)
    bound = noninferiority.lower_bound(wins, losses, n, margin, bound_alpha or alpha)
    if passed := p_value <= alpha:
        return Verdict(config, n, wins, losses, bound, p_value, passed, level=alpha)
    reason = (
        f"{describe(config)} may lose {-bound:.1%} as far as {n} held-out prompts show "
        f"({losses} lost, {wins} won), more than the margin of {margin:.1%}"
    )
    if -bound < margin:
        reason = (
            f"{describe(config)} loses less than {-bound:.1%} as {n} held-out prompts show, but "
            f"with p {p_value:.3f}, over its share of the error, {alpha:.3f}"
        )
    if n < planned and not hopeless(wins, losses, planned, margin, alpha):
        reason += f"; the time was not enough for the {planned} prompts planned, raise the budget"
    return Verdict(config, n, wins, losses, bound, p_value, passed, reason, alpha)


def hopeless(
    wins: int, losses: int, size: int, margin: float, alpha: float = noninferiority.ALPHA
) -> bool:
    """Whether `size` prompts would not pass even if the rest agreed."""
    return noninferiority.p_value(wins, losses, size, margin, alpha) > alpha


def why_none(job: Job, *, any_feasible: bool) -> tuple[Reject, str]:
    """In one word and in full, why nothing was left to confirm."""
    finished = job.study.get_trials(deepcopy=False, states=FINISHED)
    if len(finished) < len(job.study.trials) or not finished:
        return "time", (
            f"none of {len(finished)} configurations that there was time for kept its quality "
            "and was surely faster than SAFE; raise the budget"
        )
    reason = f"none of {len(finished)} configurations kept its quality and was faster than SAFE"
    return "speed" if any_feasible else "nothing-feasible", reason


def line(verdict: Verdict) -> str:
    """A verdict in a line, for who watches."""
    word = "confirmed" if verdict.passed else "not confirmed"
    return (
        f"{word}: {describe(verdict.config)}: {verdict.losses} lost, {verdict.wins} won of "
        f"{verdict.n}, loss under {-verdict.lower_bound:.1%} (p {verdict.p_value:.3f})"
    )
