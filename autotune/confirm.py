"""Confirmation on held-out prompts, safest first.

The tests share an error of 5 % (see `dllmc.autotune.fallback`), so that any candidate that breaks
the margin passes with that probability at most. Where prompts are few the first has all of it,
and the first failure ends it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dllmc.autotune import noninferiority
from dllmc.autotune.evaluator import batches
from dllmc.autotune.fallback import level_of, shares_of
from dllmc.autotune.job import describe
from dllmc.autotune.preflight import MOST_CONFIRM_PROMPTS
from dllmc.autotune.search import FINISHED
from dllmc.autotune.sizing import CONFIRM_UNTIL, prompts_affordable, prompts_wanted
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.tuning_db import split_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.evaluator import Batch
    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.retiming import Timed
    from dllmc.tuning_db import Reject


# The prompts wanted give a candidate that loses nothing 80 % power. Few lose nothing at all, and
# the tests share an error: with three times as many, time permitting, one that loses a fifth of
# the margin still passes in 9 of 10 cases at a sixth of the error (786 prompts, margin 0.02).
_GENEROSITY: Final = 3
# Times the fewest prompts from which on the tests share the error.
_PLENTY: Final = 2


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
    """

    prompts: list[Batch] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    winner: Timed | None = None
    reject: Reject | None = None
    reason: str | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    order: list[Timed]
    sizes: list[int]
    shares: list[float]
    seed: int

    def store(self, job: Job) -> None:
        """Keep it for a later run of the job."""
        order = [item.candidate.config.canonical_json() for item in self.order]
        known = {"order": order, "sizes": self.sizes, "shares": self.shares, "seed": self.seed}
        job.study.set_user_attr("plan", known)


def confirm(job: Job, pilot: Pilot, finalists: Sequence[Timed]) -> Confirmation:
    """Test `finalists`, which come slowest first, on prompts that nothing has seen.

    Args:
        job: The job.
        pilot: What the preflight found.
        finalists: The short list with fresh timings.
    """
    faster = [item for item in finalists if item.surely_faster]
    if not faster:
        reject, reason = _why_none(job, any_feasible=job.best is not None)
        return Confirmation(reject=reject, reason=reason)
    plan = _stored_plan(job, faster) or _plan(job, pilot, faster)
    if isinstance(plan, str):
        return Confirmation(reject="prompts", reason=plan)
    plan.store(job)
    samples = job.task.samples("confirm", max(plan.sizes), plan.seed)
    done = Confirmation(prompts=batches(samples, job.settings.batch), seed=plan.seed)
    configs = [item.candidate.config for item in plan.order]
    _decode(job, done.prompts, configs, plan)
    before = 0.0
    for index, finalist in enumerate(plan.order):
        level = level_of(plan.shares[index], noninferiority.ALPHA, before)
        if not level:
            break
        verdict = _judge(job, done.prompts, configs[index], plan.sizes[index], level)
        done.verdicts.append(verdict)
        job.tell("confirmation", verdict.n, plan.sizes[index], message=_line(verdict))
        if verdict.n >= noninferiority.prompts_without_loss(job.settings.margin):
            # A later run of this job must not test it again on more prompts.
            plan.sizes[index] = verdict.n
            plan.store(job)
        before = level if verdict.passed else 0.0
        done.winner = finalist if verdict.passed else done.winner
    if done.winner is None:
        done.reason = done.verdicts[0].reason
        done.reject = "quality" if done.verdicts[0].n else "time"
    return done


def baseline_passes(job: Job, done: Confirmation) -> bool | None:
    """Whether the baseline keeps the margin, on the confirm prompts that it was decoded for.

    None where they do not tell: it lost less than the margin, but not beyond doubt.
    """
    verdict = _judge(job, done.prompts, SPEED_BASELINE, MOST_CONFIRM_PROMPTS)
    if verdict.passed:
        return True
    return False if verdict.n and -verdict.difference >= job.settings.margin else None


def _plan(job: Job, pilot: Pilot, finalists: list[Timed]) -> _Plan | str:
    """Which finalists are tested and on how many prompts, or why none can be."""
    margin = job.settings.margin
    least = noninferiority.prompts_without_loss(margin)
    seed = job.seed_for(f"confirm/{_key(finalists)}")
    wanted = [prompts_wanted(item.candidate, margin) for item in finalists]
    most = min(_GENEROSITY * max(wanted), MOST_CONFIRM_PROMPTS)
    available = len(job.task.samples("confirm", most, seed))
    if available < least:
        return (
            f"task `{job.task.name}` has {available} confirm prompts, and margin {margin:g} "
            f"needs {least} at the very least; add prompts or allow a larger margin"
        )
    sizes = [min(_GENEROSITY * size, available) for size in wanted]
    reached = prompts_affordable(job, pilot, [item.candidate for item in finalists])
    # With twice the fewest prompts even a fifth of half the error is enough.
    scarce = min(reached, *sizes) < _PLENTY * least
    return _Plan(finalists, sizes, shares_of(len(sizes), all_to_first=scarce), seed)


def _stored_plan(job: Job, finalists: Sequence[Timed]) -> _Plan | None:
    """The plan of an earlier run of this job for the same finalists.

    Without it a second run could test the same configuration again on more of the same prompts,
    which would pass a lossy one more often than promised.
    """
    stored = job.study.user_attrs.get("plan")
    if stored is None or stored["seed"] != job.seed_for(f"confirm/{_key(finalists)}"):
        return None
    by_config = {item.candidate.config.canonical_json(): item for item in finalists}
    shares = stored.get("shares") or shares_of(len(stored["sizes"]), all_to_first=True)
    order = [by_config[text] for text in stored["order"]]
    return _Plan(order, stored["sizes"], shares, stored["seed"])


def _key(finalists: Sequence[Timed]) -> str:
    return split_digest([item.candidate.config.canonical_json() for item in finalists])


def _decode(
    job: Job, prompts: Sequence[Batch], configs: Sequence[DecodingConfig], plan: _Plan
) -> None:
    """Decode the first so many of `prompts` with each of `configs`, or as many as time allows.

    The clock does not look at answers, so that it may decide how many there are. What has failed
    already, whatever comes, is decoded no further: failing early makes passing no likelier
    either. The baseline is decoded along, for the report.
    """
    evaluator, n, longest, sizes = job.evaluator, 0, 0.0, plan.sizes
    open_ = list(configs)
    for batch in prompts:
        active = [c for c, size in zip(configs, sizes, strict=True) if n < size and c in open_]
        wanted = (QUALITY_REFERENCE, *active, SPEED_BASELINE)
        missing = [config for config in wanted if not evaluator.knows(config, batch)]
        late = job.budget.left(CONFIRM_UNTIL) <= 0 or job.budget.left() < longest
        if not active or (missing and late):
            break
        begun = job.budget.spent
        for config in missing:
            if not evaluator.knows(config, batch):  # the baseline may stand in it twice
                evaluator.decode(config, batch)
        longest = max(longest, job.budget.spent - begun)
        n += len(batch.ids)
        job.tell("confirmation", n, max(sizes))
        open_ = _hopeful(job, prompts, configs, plan)


def _hopeful(
    job: Job, prompts: Sequence[Batch], configs: Sequence[DecodingConfig], plan: _Plan
) -> list[DecodingConfig]:
    """Those that may pass yet, at the highest level that can come to them."""
    found, before = [], 0.0
    for config, size, share in zip(configs, plan.sizes, plan.shares, strict=True):
        level = level_of(share, noninferiority.ALPHA, before)
        wins, losses, _ = _count(job, prompts, config, size)
        before = 0.0
        if level and not _hopeless(wins, losses, size, job.settings.margin, level):
            found.append(config)
            before = level
    return found


def _count(
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


def _judge(
    job: Job,
    prompts: Sequence[Batch],
    config: DecodingConfig,
    size: int,
    level: float = noninferiority.ALPHA,
) -> Verdict:
    margin = job.settings.margin
    wins, losses, n = _count(job, prompts, config, size)
    if not n:
        late = "there was no time to confirm it"
        return Verdict(config, 0, 0, 0, -1.0, 1.0, False, late, level)
    p_value = noninferiority.p_value(wins, losses, n, margin)
    bound = noninferiority.lower_bound(wins, losses, n, margin)
    if passed := p_value <= level:
        return Verdict(config, n, wins, losses, bound, p_value, passed, level=level)
    reason = (
        f"{describe(config)} may lose {-bound:.1%} as far as {n} held-out prompts show "
        f"({losses} lost, {wins} won), more than the margin of {margin:.1%}"
    )
    if p_value <= noninferiority.ALPHA:
        reason = (
            f"{describe(config)} loses less than {-bound:.1%} as {n} held-out prompts show, but "
            f"with p {p_value:.3f}, over its share of the error, {level:.3f}"
        )
    if n < size and not _hopeless(wins, losses, size, margin, level):
        reason += f"; the time was not enough for the {size} prompts planned, raise the budget"
    return Verdict(config, n, wins, losses, bound, p_value, passed, reason, level)


def _hopeless(wins: int, losses: int, size: int, margin: float, level: float) -> bool:
    """Whether `size` prompts would not pass at `level` even if the rest agreed."""
    return noninferiority.p_value(wins, losses, size, margin) > level


def _why_none(job: Job, *, any_feasible: bool) -> tuple[Reject, str]:
    finished = job.study.get_trials(deepcopy=False, states=FINISHED)
    if len(finished) < len(job.study.trials) or not finished:
        return "time", (
            f"none of {len(finished)} configurations that there was time for kept its quality "
            "and was surely faster than SAFE; raise the budget"
        )
    reason = f"none of {len(finished)} configurations kept its quality and was faster than SAFE"
    return "speed" if any_feasible else "nothing-feasible", reason


def _line(verdict: Verdict) -> str:
    word = "confirmed" if verdict.passed else "not confirmed"
    return (
        f"{word}: {describe(verdict.config)}: {verdict.losses} lost, {verdict.wins} won of "
        f"{verdict.n}, loss under {-verdict.lower_bound:.1%} (p {verdict.p_value:.3f})"
    )
