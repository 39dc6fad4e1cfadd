"""Confirmation on held-out prompts, safest first.

The tests share an error of 5 % (see `dllmc.autotune.fallback`), so that any candidate that breaks
the margin passes with that probability at most. Where prompts are few the first has all of it,
and the first failure ends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dllmc.autotune import noninferiority
from dllmc.autotune.evaluator import batches
from dllmc.autotune.fallback import level_of, shares_of
from dllmc.autotune.judging import (
    Confirmation,
    count,
    decode_in_time,
    hopeless,
    judge,
    line,
    why_none,
)
from dllmc.autotune.preflight import MOST_CONFIRM_PROMPTS
from dllmc.autotune.sizing import prompts_affordable, prompts_wanted
from dllmc.policies.config import SPEED_BASELINE
from dllmc.tuning_db import split_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.evaluator import Batch
    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.retiming import Timed
    from dllmc.policies.config import DecodingConfig


# The prompts wanted give a candidate that loses nothing 80 % power. Few lose nothing at all, and
# the tests share an error: with three times as many, time permitting, one that loses a fifth of
# the margin still passes in 9 of 10 cases at a sixth of the error (786 prompts, margin 0.02).
GENEROSITY: Final = 3
# Times the fewest prompts from which on the tests share the error.
_PLENTY: Final = 2


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
        reject, reason = why_none(job, any_feasible=job.best is not None)
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
        verdict = judge(
            job,
            done.prompts,
            configs[index],
            plan.sizes[index],
            alpha=level,
            bound_alpha=noninferiority.ALPHA,
        )
        done.verdicts.append(verdict)
        job.tell("confirmation", verdict.n, plan.sizes[index], message=line(verdict))
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
    verdict = judge(job, done.prompts, SPEED_BASELINE, MOST_CONFIRM_PROMPTS)
    if verdict.passed:
        return True
    return False if verdict.n and -verdict.difference >= job.settings.margin else None


def _plan(job: Job, pilot: Pilot, finalists: list[Timed]) -> _Plan | str:
    """Which finalists are tested and on how many prompts, or why none can be."""
    margin = job.settings.margin
    least = noninferiority.prompts_without_loss(margin)
    seed = job.seed_for(f"confirm/{key_of(finalists)}")
    wanted = [prompts_wanted(item.candidate, margin) for item in finalists]
    # What is in doubt wants many, and gets no more than the others.
    sure = [n for n, item in zip(wanted, finalists, strict=True) if item.candidate.loss <= margin]
    wanted = [min(size, max(sure, default=size)) for size in wanted]
    most = min(GENEROSITY * max(wanted), MOST_CONFIRM_PROMPTS)
    available = len(job.task.samples("confirm", most, seed))
    if available < least:
        return (
            f"task `{job.task.name}` has {available} confirm prompts, and margin {margin:g} "
            f"needs {least} at the very least; add prompts or allow a larger margin"
        )
    sizes = [min(GENEROSITY * size, available) for size in wanted]
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
    if stored is None or stored["seed"] != job.seed_for(f"confirm/{key_of(finalists)}"):
        return None
    by_config = {item.candidate.config.canonical_json(): item for item in finalists}
    shares = stored.get("shares") or shares_of(len(stored["sizes"]), all_to_first=True)
    order = [by_config[text] for text in stored["order"]]
    return _Plan(order, stored["sizes"], shares, stored["seed"])


def key_of(finalists: Sequence[Timed]) -> str:
    """What tells the prompts that confirm `finalists` from those that confirm others."""
    return split_digest([item.candidate.config.canonical_json() for item in finalists])


def _decode(
    job: Job, prompts: Sequence[Batch], configs: Sequence[DecodingConfig], plan: _Plan
) -> None:
    """Decode the first so many of `prompts` with each of `configs`, or as many as time allows.

    The clock does not look at answers, so that it may decide how many there are. What has failed
    already, whatever comes, is decoded no further: failing early makes passing no likelier
    either.
    """
    hopeful = list(configs)

    def active(n: int) -> list[DecodingConfig]:
        planned = zip(configs, plan.sizes, strict=True)
        return [config for config, size in planned if n < size and config in hopeful]

    for _ in decode_in_time(job, prompts, active, max(plan.sizes)):
        hopeful[:] = _hopeful(job, prompts, configs, plan)


def _hopeful(
    job: Job, prompts: Sequence[Batch], configs: Sequence[DecodingConfig], plan: _Plan
) -> list[DecodingConfig]:
    """Those that may pass yet, at the highest level that can come to them."""
    found, before = [], 0.0
    for config, size, share in zip(configs, plan.sizes, plan.shares, strict=True):
        level = level_of(share, noninferiority.ALPHA, before)
        wins, losses, _ = count(job, prompts, config, size)
        before = 0.0
        if level and not hopeless(wins, losses, size, job.settings.margin, level):
            found.append(config)
            before = level
    return found
