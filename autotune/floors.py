"""How far the pick is from what is possible: in evaluations, and in seconds.

The oracle floor is the evaluations of one who knows the final tokens; the roofline floor the
seconds that the steps of the pick would take if the machine did nothing but read weights and
caches, or multiply. Both are kept in the study: a run that resumes the job repeats neither.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, Any, Final

import torch

from dllmc.artifact import Package
from dllmc.autotune.budget import BudgetSpentError
from dllmc.autotune.cost import CostModel
from dllmc.compiler.explain import floor
from dllmc.compiler.machine import measure
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE
from dllmc.runtime import oracle
from dllmc.spec import ConfigError, PlanError, StepPlan, statistics_parts
from dllmc.tuning_db.plan_speed import PlanSpeedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dllmc.autotune.job import Job, Pilot
    from dllmc.policies.config import DecodingConfig

# Tune prompts that the oracle decodes, and how few will do.
_PROMPTS: Final = 16
_FEWEST_PROMPTS: Final = 4
# Batches of tune prompts whose steps are counted: the floor of a plan takes 0.1 s.
_BATCHES: Final = 2
# Seconds that it takes to see how fast the machine is, on a slow one.
_MEASURING: Final = 3.0
_NO_PACKAGE: Final = "the engine decodes with no compiled package"
_NO_TIME: Final = "there was no time left; raise the budget"


class _SkippedError(Exception):
    """There is no such floor, for this reason; never leaves this file."""


@dataclass(frozen=True, slots=True)
class OracleFloor:
    """Evaluations per tune prompt, and the fewest that the final tokens allow.

    Attributes:
        prompts: How many; the first of the search.
        block_length: Of the oracle and of its final tokens: that of the pick, in tokens.
        nfe: Mean of the oracle.
        nfe_of: Mean of `QUALITY_REFERENCE`, `SPEED_BASELINE` and, if there is one, `tuned`.
    """

    prompts: int
    block_length: int
    nfe: float
    nfe_of: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RooflineFloor:
    """Seconds per tune prompt of the pick, and the fewest that its steps allow.

    Attributes:
        prompts: How many had their steps counted; the first of the search.
        seconds: Per prompt, as it was timed.
        floor_seconds: Per prompt, of reading or multiplying alone, step by step.
        bandwidth: Bytes that the machine reads per second at best.
        rate: Floating-point operations that it does per second at best.
    """

    prompts: int
    seconds: float
    floor_seconds: float
    bandwidth: float
    rate: float

    @property
    def times(self) -> float:
        """How many times the floor it takes."""
        return self.seconds / self.floor_seconds


def floors(job: Job, pilot: Pilot, pick: DecodingConfig) -> dict[str, dict[str, Any]]:
    """Both floors as plain JSON; of what cannot be had, or had no time, the reason.

    Args:
        job: The job, whose budget pays.
        pilot: What the preflight found.
        pick: What ships.
    """
    return {
        "oracle": _kept(job, pick, "oracle", lambda: asdict(_oracle(job, pilot, pick))),
        "roofline": _kept(job, pick, "roofline", lambda: _with_times(_roofline(job, pilot, pick))),
    }


def _kept(
    job: Job, pick: DecodingConfig, name: str, found: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What the study knows of a floor, or else what `found` gives."""
    attribute, of = f"floor:{name}", pick.canonical_json()
    known = job.study.user_attrs.get(attribute)
    if known is not None and known["of"] == of:
        return dict(known["floor"])
    package: object = job.evaluator.engine.package
    if not isinstance(package, Package):
        return {"skipped": _NO_PACKAGE}
    try:
        value = found()
    except BudgetSpentError:
        return {"skipped": _NO_TIME}
    except (_SkippedError, ConfigError, PlanError) as error:
        return {"skipped": str(error)}
    job.study.set_user_attr(attribute, {"of": of, "floor": value})
    return value


def _with_times(found: RooflineFloor) -> dict[str, Any]:
    return {**asdict(found), "times": found.times}


def _oracle(job: Job, pilot: Pilot, pick: DecodingConfig) -> OracleFloor:
    # The oracle's own decode takes no longer than the one that finds the final tokens.
    most = int(min(_PROMPTS, job.budget.left() / (2 * pilot.reference_seconds)))
    if most < _FEWEST_PROMPTS:
        raise BudgetSpentError
    samples = [sample for batch in pilot.tune for sample in batch.samples][:most]
    ids = [name for batch in pilot.tune for name in batch.ids][:most]
    job.tell("floors", 0, 2)
    engine, length = job.evaluator.engine, job.settings.length
    block = oracle.block_of(pick, length)
    found = oracle.floors(
        engine,
        [engine.encode(sample.prompt) for sample in samples],
        max_new_tokens=length,
        block_length=block,
        batch=min(job.settings.batch, _PROMPTS),
    )
    configs = {"QUALITY_REFERENCE": QUALITY_REFERENCE, "SPEED_BASELINE": SPEED_BASELINE}
    if pick != QUALITY_REFERENCE:
        configs["tuned"] = pick
    known = {name: job.evaluator.outcomes(config) for name, config in configs.items()}
    return OracleFloor(
        prompts=len(samples),
        block_length=block,
        nfe=mean(item.nfe for item in found),
        nfe_of={name: mean(own[i].nfe for i in ids) for name, own in known.items()},
    )


def _roofline(job: Job, pilot: Pilot, pick: DecodingConfig) -> RooflineFloor:
    if job.settings.objective == "first-block":
        raise _SkippedError("what was timed ends with the first block, and steps go on")
    evaluator, batches = job.evaluator, pilot.tune[:_BATCHES]
    engine = evaluator.engine
    model = CostModel(engine, evaluator.key, PlanSpeedStore(job.store), job.budget.clock)
    steps = model.steps(evaluator.evidence(pick), [batch.ids for batch in batches])
    if steps is None:
        raise _SkippedError("it is not known which steps its prompts needed")
    job.tell("floors", 1, 2)
    if job.budget.left() < _MEASURING:
        raise BudgetSpentError
    machine = measure(getattr(torch, evaluator.key.model.dtype), engine.device)
    total, known = 0.0, dict[StepPlan, float]()
    for step in (step for batch in steps for step in batch):
        plan = _plain(step.plan)
        if plan not in known:
            job.budget.require()
            least = floor(engine.package, plan)
            known[plan] = least.seconds(bandwidth=machine.bandwidth, rate=machine.rate)
        total += known[plan]
    prompts = sum(len(batch.ids) for batch in batches)
    return RooflineFloor(
        prompts=prompts,
        seconds=_seconds(job, pick),
        floor_seconds=total / prompts,
        bandwidth=machine.bandwidth,
        rate=machine.rate,
    )


def _plain(plan: StepPlan) -> StepPlan:
    """Without what only adds to the work: further statistics, mixtures, saliencies, scratch."""
    base, _ = statistics_parts(plan.statistics)
    update = {"statistics": base, "inputs": "tokens", "saliency": False, "scratch": 1}
    return plan.model_copy(update=update)


def _seconds(job: Job, pick: DecodingConfig) -> float:
    """Per prompt, from what was timed last next to the baseline."""
    pairs = job.evaluator.pairs(pick, "SPEED_BASELINE", "final")
    pairs = pairs or job.evaluator.pairs(pick, "SPEED_BASELINE", "search")
    return median(pair.seconds for pair in pairs) / job.settings.batch
