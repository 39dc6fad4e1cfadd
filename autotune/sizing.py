"""How many finalists, and how many prompts for each, there is time for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dllmc.autotune import noninferiority
from dllmc.autotune.preflight import LAST_SHARE, MOST_CONFIRM_PROMPTS, TIMING_SHARE
from dllmc.autotune.search import TIERS
from dllmc.autotune.shortlist import spread
from dllmc.tuning_db import split_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.shortlist import Candidate

CONFIRM_UNTIL: Final = 1 - LAST_SHARE
"""The share of the budget after which no confirm prompt is decoded."""


def prompts_wanted(
    candidate: Candidate, margin: float, alpha: float = noninferiority.ALPHA
) -> int:
    """Prompts that confirm `candidate` with 80 % power even if its discordance is underrated.

    Args:
        candidate: What is tested.
        margin: Loss to exclude.
        alpha: Error that is allowed.
    """
    needed = noninferiority.prompts_needed(candidate.cautious_discordance, margin, alpha)
    return min(needed, MOST_CONFIRM_PROMPTS)


def prompts_affordable(
    job: Job, pilot: Pilot, candidates: Sequence[Candidate], kept: float = 0.0
) -> int:
    """Prompts that can be decoded with the reference, the baseline and all `candidates`.

    Args:
        job: The job.
        pilot: What the preflight found.
        candidates: Who is confirmed.
        kept: Share of the budget that is needed before.
    """
    if job.budget.total is None:
        return MOST_CONFIRM_PROMPTS
    seconds = pilot.reference_seconds + pilot.baseline_seconds
    seconds += sum(candidate.seconds for candidate in candidates)
    return max(0, int(job.budget.left(CONFIRM_UNTIL - kept) / seconds))


def finalists(job: Job, pilot: Pilot, candidates: Sequence[Candidate]) -> list[Candidate]:
    """As many of the short list, slowest first, as can be confirmed in the time that is left.

    If not all of it, then one per wider tier at first. Fewer candidates on more prompts win over
    more on fewer: one lost answer of 150 prompts already fails a candidate at a margin of 0.02.
    The slowest is spared first, and of the last two the faster, whose selection owes more to
    luck. A run that resumes the job keeps the choice, since its prompts belong to it.
    """
    key = split_digest([candidate.config.canonical_json() for candidate in candidates])
    stored = job.study.user_attrs.get("finalists")
    if stored is not None and stored["of"] == key:
        return [c for c in candidates if c.config.canonical_json() in stored["kept"]]

    def too_many(kept: Sequence[Candidate]) -> bool:
        least = min(prompts_wanted(candidate, job.settings.margin) for candidate in kept)
        return prompts_affordable(job, pilot, kept, TIMING_SHARE) < least

    kept = list(candidates)
    if len(kept) > 1 and too_many(kept):
        sure = [candidate for candidate in kept if candidate.loss <= job.settings.margin]
        kept = spread(sure or kept, TIERS)
    while len(kept) > 1 and too_many(kept):
        kept = kept[1:] if len(kept) > 2 else kept[:1]
    names = [candidate.config.canonical_json() for candidate in kept]
    job.study.set_user_attr("finalists", {"of": key, "kept": names})
    return kept
