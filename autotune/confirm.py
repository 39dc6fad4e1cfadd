"""Confirmation on held-out prompts: safest first, and the first failure ends it.

A fixed sequence of tests needs no correction for their number: each is made only if all before
it have passed, so a candidate that breaks the margin passes with probability 5 % at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dllmc.autotune import noninferiority
from dllmc.autotune.budget import BudgetSpentError
from dllmc.autotune.evaluator import batches
from dllmc.autotune.job import describe
from dllmc.autotune.preflight import MOST_CONFIRM_PROMPTS
from dllmc.autotune.search import FINISHED
from dllmc.autotune.shortlist import spare_one
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.tuning_db import split_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.evaluator import Batch
    from dllmc.autotune.finalists import Timed
    from dllmc.autotune.job import Job, Pilot

# Of the time that is left, kept for judging the baseline and for timing the winner at batch 1.
_KEPT: Final = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the confirm prompts say of one configuration.

    Attributes:
        config: It.
        n: Prompts judged.
        wins: Of these, right only with it.
        losses: Of these, right only with the reference.
        lower_bound: One-sided 95 % lower bound of the difference.
        p_value: Of a loss of at least the margin.
        passed: Whether the loss is under the margin beyond doubt.
        finished: Whether there was time for the test.
        reason: Why it did not pass.
    """

    config: DecodingConfig
    n: int
    wins: int
    losses: int
    lower_bound: float
    p_value: float
    passed: bool
    finished: bool = True
    reason: str | None = None

    @property
    def difference(self) -> float:
        """Share of right answers, this configuration's minus the reference's."""
        return (self.wins - self.losses) / self.n if self.n else 0.0


@dataclass(slots=True)
class Confirmation:
    """The outcome of a confirmation.

    Attributes:
        prompts: The confirm prompts, in the order in which they were decoded.
        verdicts: In the order of testing.
        baseline: The same of `SPEED_BASELINE`, or None where there was no time for it.
        winner: The fastest that passed, or None.
        reason: Why there is no winner.
    """

    prompts: list[Batch] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    baseline: Verdict | None = None
    winner: Timed | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    order: list[Timed]
    sizes: list[int]
    seed: int


def confirm(job: Job, pilot: Pilot, finalists: Sequence[Timed]) -> Confirmation:
    """Test `finalists`, which come slowest first, on prompts that nothing has seen.

    Args:
        job: The job.
        pilot: What the preflight found.
        finalists: The short list with fresh timings.
    """
    faster = [item for item in finalists if item.surely_faster]
    if not faster:
        return Confirmation(reason=_why_none(job))
    plan = _stored_plan(job, faster) or _plan(job, pilot, faster)
    if isinstance(plan, str):
        return Confirmation(reason=plan)
    samples = job.task.samples("confirm", max(plan.sizes), plan.seed)
    done = Confirmation(prompts=batches(samples, job.settings.batch))
    for finalist, size in zip(plan.order, plan.sizes, strict=True):
        verdict = _judge(job, done.prompts, finalist.candidate.config, size, all_of_them=False)
        done.verdicts.append(verdict)
        job.tell("confirmation", message=_line(verdict))
        if not verdict.passed:
            break
        done.winner = finalist
    if done.winner is None:
        done.reason = done.verdicts[0].reason
    done.baseline = _judge_baseline(job, done)
    return done


def _plan(job: Job, pilot: Pilot, finalists: list[Timed]) -> _Plan | str:
    """Which finalists are tested and on how many prompts, or why none can be."""
    margin = job.settings.margin
    least = noninferiority.prompts_without_loss(margin)
    seed = job.seed_for(f"confirm/{_key(finalists)}")
    wanted = [_needed(item.candidate.cautious_discordance, margin) for item in finalists]
    available = len(job.task.samples("confirm", max(wanted), seed))
    if available < least:
        return (
            f"task `{job.task.name}` has {available} confirm prompts, and margin {margin:g} "
            f"needs {least} at the very least; add prompts or allow a larger margin"
        )
    while len(finalists) > 1 and _affordable(job, pilot, finalists) < min(wanted):
        finalists = spare_one(finalists)
    affordable = _affordable(job, pilot, finalists)
    if affordable < least:
        return (
            f"the time left is enough for about {affordable} confirm prompts, and margin "
            f"{margin:g} needs {least} at the very least; raise the budget or the margin"
        )
    most = min(affordable, available)
    sizes = [min(_needed(item.candidate.cautious_discordance, margin), most) for item in finalists]
    job.study.set_user_attr(
        "plan",
        {
            "seed": seed,
            "order": [item.candidate.config.canonical_json() for item in finalists],
            "sizes": sizes,
        },
    )
    return _Plan(finalists, sizes, seed)


def _needed(discordance: float, margin: float) -> int:
    return min(noninferiority.prompts_needed(discordance, margin), MOST_CONFIRM_PROMPTS)


def _stored_plan(job: Job, finalists: Sequence[Timed]) -> _Plan | None:
    """The plan of an earlier run of this job for the same finalists.

    Without it a second run could test the same configuration again on more of the same prompts,
    which would pass a lossy one more often than promised.
    """
    stored = job.study.user_attrs.get("plan")
    if stored is None or stored["seed"] != job.seed_for(f"confirm/{_key(finalists)}"):
        return None
    by_config = {item.candidate.config.canonical_json(): item for item in finalists}
    return _Plan([by_config[text] for text in stored["order"]], stored["sizes"], stored["seed"])


def _key(finalists: Sequence[Timed]) -> str:
    return split_digest([item.candidate.config.canonical_json() for item in finalists])


def _affordable(job: Job, pilot: Pilot, finalists: Sequence[Timed]) -> int:
    """Prompts that the time left is enough for."""
    if job.budget.total is None:
        return MOST_CONFIRM_PROMPTS
    per_prompt = pilot.reference_seconds + sum(item.candidate.seconds for item in finalists)
    return max(0, int((1 - _KEPT) * job.budget.left() / per_prompt))


def _judge(
    job: Job, prompts: Sequence[Batch], config: DecodingConfig, size: int, *, all_of_them: bool
) -> Verdict:
    """Decode and test the first `size` of `prompts`, or `all_of_them` where it fails already."""
    margin, evaluator = job.settings.margin, job.evaluator
    n = wins = losses = 0
    for batch in prompts:
        if n >= size:
            break
        try:
            for one in (QUALITY_REFERENCE, config):
                if not evaluator.knows(one, batch):
                    job.budget.require()
                    evaluator.decode(one, batch)
        except BudgetSpentError:
            late = f"the time was up after {n} of {size} confirm prompts; raise the budget"
            return Verdict(config, n, wins, losses, -1.0, 1.0, False, False, late)
        reference, own = evaluator.outcomes(QUALITY_REFERENCE), evaluator.outcomes(config)
        for name in batch.ids[: size - n]:
            wins += own[name].correct > reference[name].correct
            losses += own[name].correct < reference[name].correct
        n = min(size, n + len(batch.ids))
        job.tell("confirmation", n, size)
        # Where agreement on all that is left would not be enough, the rest can be spared:
        # failing early makes passing no more likely.
        hopeless = noninferiority.p_value(wins, losses, size, margin) > noninferiority.ALPHA
        if hopeless and not all_of_them:
            break
    p_value = noninferiority.p_value(wins, losses, n, margin)
    bound = noninferiority.lower_bound(wins, losses, n, margin)
    passed = n == size and p_value <= noninferiority.ALPHA
    failure = (
        f"{describe(config)} may lose {-bound:.1%} on held-out prompts ({losses} lost and {wins} "
        f"won of {n}), more than the margin of {margin:.1%}"
    )
    reason = None if passed else failure
    return Verdict(config, n, wins, losses, bound, p_value, passed, reason=reason)


def _judge_baseline(job: Job, done: Confirmation) -> Verdict | None:
    """Whether the baseline itself passes, on the prompts that the reference was decoded for.

    All of them are decoded, for the report to compare on.
    """
    known = [b for b in done.prompts if job.evaluator.knows(QUALITY_REFERENCE, b)]
    size = sum(len(batch.ids) for batch in known)
    if not size:
        return None
    verdict = _judge(job, known, SPEED_BASELINE, size, all_of_them=True)
    return verdict if verdict.finished else None


def _why_none(job: Job) -> str:
    finished = job.study.get_trials(deepcopy=False, states=FINISHED)
    if len(finished) < len(job.study.trials) or not finished:
        return (
            f"none of {len(finished)} configurations that there was time for kept its quality "
            "and was surely faster than SAFE; raise the budget"
        )
    return f"none of {len(finished)} configurations kept its quality and was faster than SAFE"


def _line(verdict: Verdict) -> str:
    word = "confirmed" if verdict.passed else "not confirmed"
    return (
        f"{word}: {describe(verdict.config)}: {verdict.losses} lost, {verdict.wins} won of "
        f"{verdict.n}, loss under {-verdict.lower_bound:.1%} (p {verdict.p_value:.3f})"
    )
