"""Choices of execution that answers do not depend on: the batch, and compiled decisions.

Whatever they are, a prompt is answered the same, so they are timed and never judged. The batch is
chosen before the search, by the speed baseline's tokens per second; whether decisions are one
compiled function after it, on the fastest finalist.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from dllmc.autotune.budget import BudgetSpentError
from dllmc.autotune.evaluator import batches
from dllmc.autotune.timing import Ratio, median_ratio
from dllmc.policies.config import SPEED_BASELINE
from dllmc.runtime.neutral import NEUTRAL, UNCOMPILING
from dllmc.spec import TuningError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dllmc.autotune.evaluator import Evaluator
    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.shortlist import Candidate

# Timings of a batch, and of decisions. Of the latter all must be faster: the extremes of six are
# the ends of a 95 % interval.
_BATCH_ROUNDS: Final = 3
_SELECT_ROUNDS: Final = 6
# Share of the budget after which decisions are not tried any more: confirming comes first.
_UNTIL: Final = 0.7


@dataclass(frozen=True, slots=True)
class Structure:
    """What is tried of each.

    Attributes:
        batches: Prompts decoded together.
        selects: Of `dllmc.runtime.neutral.NEUTRAL`.
    """

    batches: tuple[int, ...]
    selects: tuple[str, ...]


def read_structure(
    space: Mapping[str, Any], *, batch: int, objective: str, backend: str, long: bool
) -> tuple[Structure, dict[str, Any]]:
    """The structural choices of a narrowing, and what is left of it for the search space.

    Args:
        space: `batch` and `select` take a value or a list.
        batch: Where it says none.
        objective: Only throughput has a choice of batches.
        backend: Only a compiling one has a choice of decisions.
        long: Whether the job is long enough to compile what is not named.

    Raises:
        TuningError: A value is none, or there is no such choice here.
    """
    left = dict(space)
    sizes, selects = _listed(left.pop("batch", batch)), _listed(left.pop("select", ()))
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise TuningError(f"`space` batch={size!r} is no number of prompts; give 8,16,32")
    if len(sizes) > 1 and objective != "throughput":
        raise TuningError(
            f"`space` batch={','.join(map(str, sizes))} leaves a choice that objective "
            f"{objective} does not have; give one, or tune for throughput"
        )
    for select in selects:
        if select not in NEUTRAL["select"]:
            hint = nearest(str(select), NEUTRAL["select"])
            raise TuningError(f"`space` select={select!r} is unknown; {hint}")
    if "compiled" in selects and backend in UNCOMPILING:
        raise TuningError("`space` select='compiled' needs a back end that compiles: inductor")
    if not selects:
        selects = (
            NEUTRAL["select"] if long and backend not in UNCOMPILING else NEUTRAL["select"][:1]
        )
    return Structure(tuple(sorted(set(sizes))), tuple(selects)), left


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def fastest_batch(
    at_batch: Callable[[int], Evaluator],
    sizes: Sequence[int],
    seed: int,
    fits: Callable[[Evaluator], bool],
) -> int:
    """The batch of which the speed baseline makes the most tokens per second.

    Timings are kept: asked again, it answers without decoding.

    Args:
        at_batch: The workload with another batch.
        sizes: To choose from.
        seed: Of the prompts.
        fits: Whether there is the memory for it.

    Raises:
        TuningError: None fits, or the task has fewer prompts than one of `sizes`.
    """
    if len(sizes) == 1:
        return sizes[0]
    found = {size: each for size in sizes if fits(each := at_batch(size))}
    if not found:
        raise TuningError(
            f"`space` batch={','.join(map(str, sizes))}: none fits into the memory allowed; "
            "give smaller ones"
        )
    prompts = {}
    for size, evaluator in found.items():
        samples = evaluator.task.samples("tune", _BATCH_ROUNDS * size, seed)
        if len(samples) < size:
            raise TuningError(
                f"`space` batch={size} exceeds the {len(samples)} tune prompts of "
                f"{evaluator.task.name}; give smaller ones or add prompts"
            )
        prompts[size] = [b for b in batches(samples, size) if len(b.ids) == size]
    for number in range(_BATCH_ROUNDS):
        for size, evaluator in found.items():
            if len(_own(evaluator)) > number:
                continue
            batch = prompts[size][number % len(prompts[size])]
            evaluator.warm((SPEED_BASELINE,), batch)
            seconds, tokens = evaluator.decode(SPEED_BASELINE, batch)
            evaluator.keep(
                SPEED_BASELINE, "SPEED_BASELINE", batch, "structure", seconds, seconds, tokens
            )
    speeds = _speeds(found)
    return max(speeds, key=speeds.__getitem__)


def _speeds(evaluators: Mapping[int, Evaluator]) -> dict[int, float]:
    """Prompts per second of the speed baseline, by batch."""
    return {
        size: size / median(pair.seconds for pair in _own(evaluator))
        for size, evaluator in evaluators.items()
        if _own(evaluator)
    }


def said(job: Job) -> list[str]:
    """What was chosen, a line each; nothing where there was no choice."""
    found, sizes = [], job.structure.batches
    if len(sizes) > 1:
        speeds = _speeds({size: job.evaluator.at_batch(size) for size in sizes})
        rest = ", ".join(f"{size}: {speed:.1f}" for size, speed in speeds.items())
        found.append(f"batch {job.settings.batch} was chosen; prompts/s by batch: {rest}")
    gain = job.study.user_attrs.get("select_gain")
    if gain is not None and len(job.structure.selects) > 1:
        middle, low, high = gain
        found.append(
            f"decisions as one compiled function: {middle:.2f}x ({low:.2f}-{high:.2f}); "
            f"{job.study.user_attrs['select']} was chosen"
        )
    return found


def _own(evaluator: Evaluator) -> Sequence[Any]:
    return evaluator.pairs(SPEED_BASELINE, "SPEED_BASELINE", "structure")


def choose_select(job: Job, pilot: Pilot, candidates: Sequence[Candidate]) -> str:
    """Whether `candidates` are to decide by a compiled function, tried on the fastest.

    Where there is no time to find out, they are not.
    """
    known: str | None = job.study.user_attrs.get("select")
    if known is None or known not in job.structure.selects:
        known = job.structure.selects[0]
        if len(job.structure.selects) > 1 and candidates:
            try:
                gain = _gain(job, pilot, candidates)
            except BudgetSpentError:
                return known
            known = "compiled" if gain.low > 1 else "plain"
            job.tell("timing", message=f"compiled decisions: {gain.median:.2f}x, {known} it is")
            job.study.set_user_attr("select_gain", [gain.median, gain.low, gain.high])
        job.study.set_user_attr("select", known)
    if known == "compiled":
        job.evaluator.compile_decisions(candidate.config for candidate in candidates)
    return known


def _gain(job: Job, pilot: Pilot, candidates: Sequence[Candidate]) -> Ratio:
    evaluator, fastest = job.evaluator, max(candidates, key=lambda c: c.ratio).config
    compiled = evaluator.at_batch(job.settings.batch)
    compiled.compile_decisions([fastest])
    ratios = []
    for number in range(_SELECT_ROUNDS):
        batch = pilot.tune[number % len(pilot.tune)]
        job.budget.require(_UNTIL)
        for each in (evaluator, compiled):
            each.warm((fastest,), batch)
        first = number % 2 == 0
        seconds = {
            own: (compiled if own else evaluator).decode(fastest, batch)[0]
            for own in (first, not first)
        }
        ratios.append(seconds[False] / seconds[True])
    return median_ratio(ratios)
