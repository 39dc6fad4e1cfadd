"""What a job learns before it searches: costs, noise, and what its prompts can confirm."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, Final

from dllmc.autotune import noninferiority
from dllmc.autotune.evaluator import batches
from dllmc.autotune.job import Pilot
from dllmc.autotune.timing import noise_floor
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from dllmc.autotune.evaluator import Batch
    from dllmc.autotune.job import Job

# Shares of the budget. The reference and the baseline decode as many tune prompts as fit into the
# first. Confirmation gets what it is expected to need, but within its limits; and timing the
# winner at batch 1, which follows it, the last.
PREFLIGHT_SHARE: Final = 0.2
FEWEST_CONFIRM_SHARE: Final = 0.3
MOST_CONFIRM_SHARE: Final = 0.5
TIMING_SHARE: Final = 0.08
LAST_SHARE: Final = 0.06

# Prompts of the search: the most and, if the preflight's share reaches, the fewest. Between them
# as many as let this number of trials fit into half of the budget.
_MOST_TUNE: Final = 256
_FEWEST_TUNE: Final = 64
_TRIALS_HOPED: Final = 60
_FEWEST_BATCHES: Final = 2
# Timings of the baseline against itself; the fewer where the more take over 5 % of the budget.
_SELF_PAIRS: Final = (3, 6)
# Candidates that a confirmation is expected to decode for, besides reference and baseline.
_EXPECTED_FINALISTS: Final = 3
MOST_CONFIRM_PROMPTS: Final = 8192


def preflight(job: Job) -> Pilot:
    """Decode the tune prompts with reference and baseline, side by side.

    Raises:
        TuningError: The task's tune and confirm prompts overlap.
        BudgetSpentError: The budget does not reach.
    """
    settings, evaluator = job.settings, job.evaluator
    samples = job.task.samples("tune", max(_MOST_TUNE, settings.batch), settings.seed)
    available = batches(samples, settings.batch)
    if not all(evaluator.knows(c, available[0]) for c in (QUALITY_REFERENCE, SPEED_BASELINE)):
        job.tell("preflight", message="decoding the first prompts, which may compile")
        for config in (QUALITY_REFERENCE, SPEED_BASELINE):
            job.budget.require()
            evaluator.decode(config, available[0])
    probe = available[1 % len(available)]
    if not evaluator.pairs(QUALITY_REFERENCE, "SPEED_BASELINE", "search"):
        evaluator.time(QUALITY_REFERENCE, "SPEED_BASELINE", probe, "search")
    tune = available[: _tune_batches(job, available)]
    for index, batch in enumerate(tune):
        job.tell("preflight", index, len(tune))
        if not all(evaluator.knows(c, batch) for c in (QUALITY_REFERENCE, SPEED_BASELINE)):
            if index >= _FEWEST_BATCHES and job.budget.left(1.5 * PREFLIGHT_SHARE) <= 0:
                # The machine has become slower than it was when the batches were counted.
                tune = tune[:index]
                job.study.set_user_attr("tune_batches", index)
                break
            job.budget.require()
            evaluator.time(
                QUALITY_REFERENCE, "SPEED_BASELINE", batch, "search", first=index % 2 == 0
            )
    _time_baseline(job, tune)
    pilot = _conclude(job, tune, settings.batch)
    job.tell("preflight", len(tune), len(tune), _summary(job, pilot))
    return pilot


def confirm_seconds(pilot: Pilot, prompts: int) -> float:
    """What confirming on so many prompts is expected to take, in seconds."""
    return prompts * (pilot.reference_seconds + (1 + _EXPECTED_FINALISTS) * pilot.baseline_seconds)


def search_share(job: Job, pilot: Pilot) -> float:
    """The share of the budget after which the search ends."""
    if job.budget.total is None:
        return 1.0
    if job.settings.limit is not None:
        # A front has more members than a short list, and each needs more prompts.
        return 1 - MOST_CONFIRM_SHARE - TIMING_SHARE - LAST_SHARE
    needed = noninferiority.prompts_needed(pilot.discordance, job.settings.margin)
    # A finalist is hoped to be less discordant than the baseline: 3 times the fewest prompts are
    # enough for 2 % of discordance at a margin of 0.02.
    hoped = 3 * noninferiority.prompts_without_loss(job.settings.margin)
    seconds = confirm_seconds(pilot, min(needed, hoped, MOST_CONFIRM_PROMPTS))
    share = min(max(FEWEST_CONFIRM_SHARE, seconds / job.budget.total), MOST_CONFIRM_SHARE)
    return 1 - share - TIMING_SHARE - LAST_SHARE


def _time_baseline(job: Job, tune: list[Batch]) -> None:
    """Time the baseline against itself, to know what a difference in speed must exceed."""
    evaluator = job.evaluator
    fewest, most = _SELF_PAIRS
    pair = evaluator.pairs(QUALITY_REFERENCE, "SPEED_BASELINE", "search")[0]
    seconds = 2 * most * pair.against_seconds
    wanted = fewest if seconds > 0.05 * (job.budget.total or math.inf) else most
    while (done := len(evaluator.pairs(SPEED_BASELINE, "SPEED_BASELINE", "search"))) < wanted:
        job.budget.require()
        evaluator.time(SPEED_BASELINE, "SPEED_BASELINE", tune[done % len(tune)], "search")


def _tune_batches(job: Job, available: list[Batch]) -> int:
    known = job.study.user_attrs.get("tune_batches")
    if known is not None:
        return int(known)
    pair = job.evaluator.pairs(QUALITY_REFERENCE, "SPEED_BASELINE", "search")[0]
    count = len(available)
    if job.budget.total is not None:
        hoped = int(job.budget.total / 2 / _TRIALS_HOPED / pair.against_seconds)
        fewest = math.ceil(_FEWEST_TUNE / job.settings.batch)
        affordable = int(
            PREFLIGHT_SHARE * job.budget.total / (pair.seconds + pair.against_seconds)
        )
        count = min(count, max(_FEWEST_BATCHES, min(affordable, max(fewest, hoped))))
    job.study.set_user_attr("tune_batches", count)
    return count


def _conclude(job: Job, tune: list[Batch], size: int) -> Pilot:
    evaluator = job.evaluator
    reference, baseline = (evaluator.outcomes(c) for c in (QUALITY_REFERENCE, SPEED_BASELINE))
    ids = [name for batch in tune for name in batch.ids]
    discordant = sum(reference[name].correct != baseline[name].correct for name in ids)
    discordance = noninferiority.estimated_discordance(discordant, len(ids))
    pairs = evaluator.pairs(QUALITY_REFERENCE, "SPEED_BASELINE", "search")
    own = evaluator.pairs(SPEED_BASELINE, "SPEED_BASELINE", "search")
    pilot = Pilot(
        tune=tune,
        reference_seconds=median(pair.seconds for pair in pairs) / size,
        baseline_seconds=median(pair.against_seconds for pair in pairs) / size,
        reference_ratios=[pair.ratio for pair in pairs],
        discordance=discordance,
        noise_floor=noise_floor([pair.ratio for pair in own]),
        smallest_margin=1.0,
    )
    prompts = _confirm_prompts(job, pilot)
    smallest = noninferiority.smallest_margin(discordance, prompts) if prompts else 1.0
    return replace(pilot, smallest_margin=smallest)


def _confirm_prompts(job: Job, pilot: Pilot) -> int:
    """How many confirm prompts there are and could be decoded."""
    affordable = MOST_CONFIRM_PROMPTS
    if job.budget.total is not None:
        seconds = MOST_CONFIRM_SHARE * job.budget.total
        affordable = min(affordable, int(seconds / (confirm_seconds(pilot, 1000) / 1000)))
    samples = job.task.samples("confirm", max(1, affordable), job.settings.seed)
    seen = {sample.prompt for batch in pilot.tune for sample in batch.samples}
    shared = next((sample.prompt for sample in samples if sample.prompt in seen), None)
    if shared is not None:
        raise TuningError(
            f"task `{job.task.name}` has prompt {shared!r} in both its tune and its confirm "
            "split; take it out of one"
        )
    return min(affordable, len(samples))


def _summary(job: Job, pilot: Pilot) -> str:
    prompts = sum(len(batch.ids) for batch in pilot.tune)
    lines = [
        f"reference {pilot.reference_seconds * 1e3:.0f} ms and baseline "
        f"{pilot.baseline_seconds * 1e3:.0f} ms per prompt; a timing is sure to "
        f"{pilot.noise_floor:.1%}; {prompts} tune prompts",
        f"smallest margin that the confirm prompts can confirm: {pilot.smallest_margin:.3f} at "
        f"the baseline's discordance of {pilot.discordance:.1%}; the margin is "
        f"{job.settings.margin:g}",
    ]
    if job.settings.margin < pilot.smallest_margin:
        least = noninferiority.prompts_without_loss(job.settings.margin)
        needed = noninferiority.prompts_needed(pilot.discordance, job.settings.margin)
        lines.append(
            f"  margin {job.settings.margin:g} needs {least} confirm prompts at the very least, "
            f"and {needed} at that discordance; raise the budget or the margin if nothing passes"
        )
    return "\n".join(lines)
