"""Which configurations are confirmed: a few, spread from safe to fast."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from optuna.trial import TrialState

from dllmc.autotune import noninferiority
from dllmc.autotune.search import TIERS, config_of
from dllmc.policies.config import QUALITY_REFERENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.job import Job, Pilot
    from dllmc.policies.config import DecodingConfig

# With a tier of 7 % at the fast end alone, the one candidate of it that is tested fails now and
# then, and the next passes at three quarters of its speed.
FINE_TIERS: Final = (0.97, TIERS[0], 0.85, *TIERS[1:])

# Candidates that the tune prompts leave in doubt: each has a part of the error.
_DOUBTFUL: Final = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration that may be confirmed.

    Attributes:
        config: It.
        trial: Number of its trial.
        ratio: Speed as a multiple of the baseline's.
        seconds: Per prompt.
        n: Tune prompts.
        wins: Of these, right only with it.
        losses: Of these, right only with the reference.
        disagreement: Share of tune prompts whose answer differs from the reference's, right or
            wrong: a finer sign of risk than the losses.
    """

    config: DecodingConfig
    trial: int
    ratio: float
    seconds: float
    n: int
    wins: int
    losses: int
    disagreement: float

    @property
    def loss(self) -> float:
        """Share of tune prompts lost against the reference; negative where it is better."""
        return (self.losses - self.wins) / self.n

    @property
    def risk(self) -> tuple[float, float]:
        """To compare candidates by: lost answers first, then differing ones."""
        return max(0.0, self.loss), self.disagreement

    @property
    def discordance(self) -> float:
        """Estimated share of prompts that only one of it and the reference answers right."""
        return noninferiority.estimated_discordance(self.wins + self.losses, self.n)

    @property
    def cautious_discordance(self) -> float:
        """What that share is likely under."""
        return noninferiority.cautious_discordance(self.wins + self.losses, self.n)


def shortlist(job: Job, pilot: Pilot) -> list[Candidate]:
    """Feasible candidates that are faster than `SAFE`, slowest first, spread over fine tiers.

    Behind them come a few that are faster still and that the tune prompts leave in doubt: with
    256 of them, one that truly loses nothing and differs on 6 % seems to lose 2 points now and
    then (in one case of ten). Where they fail, nothing before them is lost.
    """
    safe, margin = median(pilot.reference_ratios), job.settings.margin
    found = [c for c in candidates(job, pilot, doubtful=True) if c.ratio > safe]
    sure = [c for c in found if c.loss <= margin]
    fastest = max((c.ratio for c in sure), default=safe)
    doubtful = sorted((c for c in found if c.loss > margin and c.ratio > fastest), key=_by_risk)
    return spread(sure, FINE_TIERS) + sorted(doubtful[:_DOUBTFUL], key=lambda c: c.ratio)


def spread(found: Sequence[Candidate], tiers: Sequence[float]) -> list[Candidate]:
    """Of `found` one per tier of speed, slowest first.

    Each tier gives its least risky candidate, unless a faster tier's is less risky. Slower ones
    that look as good are kept: the fastest that lost nothing so far was selected for its luck
    too, and something must be there if it fails.

    Args:
        found: Candidates.
        tiers: Lower ends, as fractions of the fastest's speed, falling.
    """
    fastest = max((c.ratio for c in found), default=0.0)
    chosen: list[Candidate] = []
    for high, low in itertools.pairwise((1.0, *tiers)):
        tier = [c for c in found if low * fastest < c.ratio <= high * fastest]
        best = min(tier, key=_by_risk, default=None)
        if best is not None and (not chosen or best.risk <= chosen[-1].risk):
            chosen.append(best)
    return chosen[::-1]


def _by_risk(candidate: Candidate) -> tuple[tuple[float, float], float]:
    return candidate.risk, -candidate.ratio


def candidates(job: Job, pilot: Pilot, *, doubtful: bool = False) -> list[Candidate]:
    """What was decoded to the end and lost no more than is tolerated, without the reference.

    Args:
        job: The job.
        pilot: What the preflight found.
        doubtful: Take what lost up to a standard error more, too.
    """
    evaluator = job.evaluator
    reference = evaluator.outcomes(QUALITY_REFERENCE)
    ids = [name for batch in pilot.tune for name in batch.ids]
    found: dict[str, Candidate] = {}
    for trial in job.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        config = config_of(trial)
        outcomes = evaluator.outcomes(config)
        if any(name not in outcomes for name in ids):
            continue  # given up as too slow
        over = {name: value for name, value in trial.constraints.items() if value > 0}
        if config == QUALITY_REFERENCE or (over and not doubtful) or set(over) - {"quality"}:
            continue
        pairs = evaluator.pairs(config, "SPEED_BASELINE", "search")
        wins = sum(outcomes[i].correct > reference[i].correct for i in ids)
        losses = sum(outcomes[i].correct < reference[i].correct for i in ids)
        if over.get("quality", 0.0) > math.sqrt(wins + losses) / len(ids):
            continue
        different = sum(outcomes[i].answer != reference[i].answer for i in ids)
        found[config.canonical_json()] = Candidate(
            config=config,
            trial=trial.number,
            ratio=median(pair.ratio for pair in pairs),
            seconds=median(pair.seconds for pair in pairs) / job.settings.batch,
            n=len(ids),
            wins=wins,
            losses=losses,
            disagreement=different / len(ids),
        )
    return list(found.values())
