"""The front of a job: what no configuration beats in both speed and quality, tested at once.

Every member is tested whatever becomes of the others, each at its share of the error (Bonferroni):
any that breaks the margin passes with probability 5 % at most. A job that is given more time may
find another front and test that one too; so its first front gets four fifths of the error, and
each further one four fifths of what is left.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Final

from dllmc.autotune import noninferiority
from dllmc.autotune._front import front
from dllmc.autotune.confirm import GENEROSITY, key_of
from dllmc.autotune.evaluator import batches
from dllmc.autotune.judging import (
    Confirmation,
    Member,
    count,
    decode_in_time,
    judge,
    line,
    why_none,
)
from dllmc.autotune.preflight import MOST_CONFIRM_PROMPTS, TIMING_SHARE
from dllmc.autotune.shortlist import candidates
from dllmc.autotune.sizing import prompts_affordable, prompts_wanted
from dllmc.tuning_db import split_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.evaluator import Batch
    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.judging import Verdict
    from dllmc.autotune.retiming import Timed
    from dllmc.autotune.shortlist import Candidate
    from dllmc.policies.config import DecodingConfig
    from dllmc.tuning_db import Reject

MOST_MEMBERS: Final = 8
# Of the error that is left, the share of the next front.
_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a front is tested.

    Attributes:
        seed: Of the prompts.
        size: Prompts.
        error: Probability that any member that breaks the margin passes.
    """

    seed: int
    size: int
    error: float


def members(job: Job, pilot: Pilot) -> list[Candidate]:
    """Members of the front of what was searched, slowest first, that there is time to test.

    Fewer members on more prompts win over more on fewer. A run that resumes the job keeps the
    choice, since its prompts belong to it.
    """
    safe = median(pilot.reference_ratios)
    found = front([c for c in candidates(job, pilot) if c.ratio > safe])
    of = split_digest([candidate.config.canonical_json() for candidate in found])
    stored = job.study.user_attrs.get("members")
    if stored is not None and stored["of"] == of:
        return [c for c in found[::-1] if c.config.canonical_json() in stored["kept"]]
    kept, most = spread(found, MOST_MEMBERS, job.settings.margin), MOST_MEMBERS
    while most > 1 and prompts_affordable(job, pilot, kept, TIMING_SHARE) < _fewest(job, kept):
        most -= 1
        kept = spread(found, most, job.settings.margin)
    names = [candidate.config.canonical_json() for candidate in kept]
    job.study.set_user_attr("members", {"of": of, "kept": names})
    return kept


def spread(found: Sequence[Candidate], most: int, margin: float) -> list[Candidate]:
    """At most so many of a front, spread along the speed, slowest first.

    The fastest that seems to keep the margin comes before the slowest and the fastest of all, and
    these before what is farthest in speed from all that was taken.

    Args:
        found: The front.
        most: Members.
        margin: Loss of right answers that is allowed.
    """
    by_speed = sorted(found, key=lambda c: c.ratio)
    keeping = [c for c in by_speed if c.loss <= margin]
    kept: list[Candidate] = []
    for candidate in (*keeping[-1:], *by_speed[:1], *by_speed[-1:]):
        if candidate not in kept:
            kept.append(candidate)
    kept = kept[:most]
    left = [candidate for candidate in by_speed if candidate not in kept]
    while left and len(kept) < most:
        farthest = max(left, key=lambda c: min(abs(math.log(c.ratio / k.ratio)) for k in kept))
        kept.append(farthest)
        left.remove(farthest)
    return sorted(kept, key=lambda c: c.ratio)


def judge_front(job: Job, timed: Sequence[Timed]) -> Confirmation:
    """Test every member of a front on the same prompts, which nothing has seen.

    Args:
        job: The job.
        timed: Members with fresh timings, slowest first.
    """
    faster = [item for item in timed if item.surely_faster]
    if not faster:
        reject, reason = why_none(job, any_feasible=bool(timed))
        return Confirmation(reject=reject, reason=reason)
    plan, configs = _plan(job, faster), [item.candidate.config for item in faster]
    alpha = plan.error / len(faster)
    samples = job.task.samples("confirm", plan.size, plan.seed)
    done = Confirmation(
        prompts=batches(samples, job.settings.batch),
        seed=plan.seed,
        test=f"{noninferiority.SCORE}, one-sided {alpha:.2%} for each of {len(faster)} at once",
    )
    n = _decode(job, done.prompts, configs, plan.size)
    done.verdicts = [
        judge(job, done.prompts, config, n, alpha=alpha, planned=plan.size) for config in configs
    ]
    for verdict in done.verdicts:
        job.tell("confirmation", n, plan.size, message=line(verdict))
    least = noninferiority.prompts_without_loss(job.settings.margin, alpha)
    if n >= least:
        # A later run of this job must not test it again on more prompts.
        _store(job, faster, replace(plan, size=n))
    done.front = [
        Member(item, verdict, _interval(job, verdict, alpha), _dominated(index, faster, done))
        for index, (item, verdict) in enumerate(zip(faster, done.verdicts, strict=True))
    ]
    done.winner = next(iter(done.published), None)
    if done.winner is None:
        done.reject, done.reason = _why_nothing(job, done, len(samples), least)
    return done


def _decode(
    job: Job, prompts: Sequence[Batch], configs: Sequence[DecodingConfig], size: int
) -> int:
    """Decode with all of a front, as time allows; returns prompts that all were decoded for."""
    for _ in decode_in_time(job, prompts, lambda n: configs if n < size else (), size):
        pass
    # A run that was killed may have decoded a batch with some of them.
    return min(count(job, prompts, config, size)[2] for config in configs)


def _why_nothing(
    job: Job, done: Confirmation, available: int, least: int
) -> tuple[Reject, str | None]:
    """In one word and in full, why no member of a front has passed."""
    if available < least:
        return "prompts", (
            f"task `{job.task.name}` has {available} confirm prompts, and margin "
            f"{job.settings.margin:g} needs {least} at the very least for a front of "
            f"{len(done.front)}; add prompts or allow a larger margin"
        )
    safest = done.verdicts[0]
    return "quality" if safest.n else "time", safest.reason


def _plan(job: Job, faster: Sequence[Timed]) -> _Plan:
    """On which prompts a front is tested: those of an earlier run of this job, if it was."""
    known = job.study.user_attrs.get("fronts", {})
    key = key_of(faster)
    if key in known:
        return _Plan(**known[key])
    error, margin = _error(job), job.settings.margin
    alpha = error / len(faster)
    wanted = [
        prompts_wanted(item.candidate, margin, alpha)
        for item in faster
        if item.candidate.loss <= margin
    ]
    # What seems to break the margin only needs to be placed.
    most = GENEROSITY * max(wanted, default=noninferiority.prompts_without_loss(margin, alpha))
    seed = job.seed_for(f"front/{key}")
    size = len(job.task.samples("confirm", min(most, MOST_CONFIRM_PROMPTS), seed))
    plan = _Plan(seed, size, error)
    _store(job, faster, plan)
    return plan


def _store(job: Job, faster: Sequence[Timed], plan: _Plan) -> None:
    known = job.study.user_attrs.get("fronts", {})
    job.study.set_user_attr("fronts", {**known, key_of(faster): asdict(plan)})


def _error(job: Job) -> float:
    """Of the next front that this job has not planned to test before."""
    tested = len(job.study.user_attrs.get("fronts", {}))
    return noninferiority.ALPHA * _SHARE * (1 - _SHARE) ** tested


def _fewest(job: Job, kept: Sequence[Candidate]) -> int:
    """Prompts that confirm the first of a front that seems to keep the margin."""
    margin = job.settings.margin
    if not kept:
        return 0
    alpha = _error(job) / len(kept)
    wanted = [prompts_wanted(c, margin, alpha) for c in kept if c.loss <= margin]
    return min(wanted, default=noninferiority.prompts_without_loss(margin, alpha))


def _interval(job: Job, verdict: Verdict, alpha: float) -> tuple[float, float]:
    if not verdict.n:
        return -1.0, 1.0
    counts = verdict.wins, verdict.losses, verdict.n
    return noninferiority.interval(*counts, job.settings.margin, alpha)


def _dominated(index: int, faster: Sequence[Timed], done: Confirmation) -> bool:
    """Whether another member is at least as fast and as good, and not equal."""
    places = [
        (item.ratio.median, verdict.difference)
        for item, verdict in zip(faster, done.verdicts, strict=True)
    ]
    own = places[index]
    return any(other != own and other[0] >= own[0] and other[1] >= own[1] for other in places)
