"""Timing the short list again: selection has favoured lucky timings, these are fresh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dllmc.autotune import fresh_process
from dllmc.autotune.timing import Ratio, median_ratio
from dllmc.policies.config import SPEED_BASELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.shortlist import Candidate
    from dllmc.policies.config import DecodingConfig

# With 9 pairs a 95 % interval leaves out the extremes; with 6 it is the extremes.
_MOST_ROUNDS: Final = 9
_FEWEST_ROUNDS: Final = 3
# Share of the budget beyond the part's own after which one round has to do.
_PATIENCE: Final = 0.08
# Seconds of a budget from which on a new process times the short list.
_LONG: Final = 300


@dataclass(frozen=True, slots=True)
class Timed:
    """A candidate with timings that its selection has not seen.

    Attributes:
        candidate: The candidate.
        ratio: Speed as a multiple of `SPEED_BASELINE`.
        reference_ratio: Speed as a multiple of `QUALITY_REFERENCE`; both were timed next to the
            baseline, so that drift cancels, and the ends combine the ends of the two.
        tokens_per_second: Response tokens per second.
    """

    candidate: Candidate
    ratio: Ratio
    reference_ratio: Ratio
    tokens_per_second: float

    @property
    def surely_faster(self) -> bool:
        """Whether it is faster than the reference, and so than `SAFE`, beyond doubt."""
        return self.reference_ratio.low > 1


def time_finalists(
    job: Job, pilot: Pilot, candidates: Sequence[Candidate], until: float
) -> list[Timed]:
    """Time `candidates` and the baseline in turns; slowest first.

    Args:
        job: The job.
        pilot: What the preflight found.
        candidates: The short list.
        until: Share of the budget after which only the fewest rounds are made.
    """
    evaluator = job.evaluator
    configs = [candidate.config for candidate in candidates]
    if candidates and _has_time_for_a_process(job):
        _time_in_new_process(job, pilot, configs, until)
    while candidates:
        rounds = min(_rounds(job, config) for config in configs)
        job.tell("timing", rounds, _MOST_ROUNDS)
        late = job.budget.left(until) <= 0
        very_late = job.budget.left(until + _PATIENCE) <= 0
        enough = 1 if very_late else _FEWEST_ROUNDS if late else _MOST_ROUNDS
        if rounds >= enough:
            break
        job.budget.require()
        batch = pilot.tune[rounds % len(pilot.tune)]
        evaluator.warm((*configs, SPEED_BASELINE), batch)
        baseline, _ = evaluator.decode(SPEED_BASELINE, batch)
        turn = rounds % len(configs)
        for config in configs[turn:] + configs[:turn]:
            seconds, tokens = evaluator.decode(config, batch)
            evaluator.keep(config, "SPEED_BASELINE", batch, "final", seconds, baseline, tokens)
    timed = [_conclude(job, pilot, candidate) for candidate in candidates]
    return sorted(timed, key=lambda item: item.ratio.median)


def _has_time_for_a_process(job: Job) -> bool:
    """Whether starting one, which may compile, is little of the budget."""
    total, objective = job.budget.total, job.settings.objective
    long = total is None or total >= _LONG
    return long and objective != "first-block" and fresh_process.suits(job.evaluator.engine)


def _time_in_new_process(
    job: Job, pilot: Pilot, configs: Sequence[DecodingConfig], until: float
) -> None:
    """Time `configs` next to the baseline as `time_finalists` does, in a process of its own."""
    evaluator = job.evaluator
    left = _MOST_ROUNDS - min(_rounds(job, config) for config in configs)
    if left <= 0:
        return
    encode = evaluator.engine.encode
    batches = [[encode(s.prompt) for s in batch.samples] for batch in pilot.tune]
    length = evaluator.key.workload.max_new_tokens
    every = [SPEED_BASELINE, *configs]
    known: dict[int, fresh_process.Decode] = {}
    compiled = [evaluator.compiles_decisions(config) for config in every]
    orders = fresh_process.time_rounds(evaluator.engine, every, compiled, batches, length, left)
    for decode in orders:
        known[decode.config] = decode
        if len(known) < len(every):
            continue
        base, batch = known.pop(0), pilot.tune[decode.round % len(pilot.tune)]
        for index, own in known.items():
            evaluator.keep(
                every[index],
                "SPEED_BASELINE",
                batch,
                "final",
                own.seconds,
                base.seconds,
                own.tokens,
            )
        known = {}
        job.tell("timing", decode.round + 1, _MOST_ROUNDS)
        if job.budget.left(until) <= 0 and decode.round + 1 >= _FEWEST_ROUNDS:
            break


def tokens_per_second(job: Job, config: DecodingConfig) -> float:
    """Response tokens per second, from every timing of `config` next to the baseline."""
    evaluator = job.evaluator
    pairs = evaluator.pairs(config, "SPEED_BASELINE", "final") or evaluator.pairs(
        config, "SPEED_BASELINE", "search"
    )
    return sum(pair.tokens for pair in pairs) / sum(pair.seconds for pair in pairs)


def _rounds(job: Job, config: DecodingConfig) -> int:
    return len(job.evaluator.pairs(config, "SPEED_BASELINE", "final"))


def _conclude(job: Job, pilot: Pilot, candidate: Candidate) -> Timed:
    pairs = job.evaluator.pairs(candidate.config, "SPEED_BASELINE", "final")
    own = median_ratio([pair.ratio for pair in pairs])
    reference = median_ratio(pilot.reference_ratios)
    against = Ratio(
        min(own.n, reference.n),
        own.median / reference.median,
        own.low / reference.high,
        own.high / reference.low,
        own.confidence + reference.confidence - 1,
    )
    return Timed(candidate, own, against, tokens_per_second(job, candidate.config))
