"""Predicted speed beside measured speed: how far the cost model is to be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from dllmc.autotune.cost import CostModel
from dllmc.policies.config import SPEED_BASELINE
from dllmc.tuning_db.plan_speed import PlanSpeedStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.retiming import Timed
    from dllmc.policies.config import DecodingConfig

# Batches of tune prompts whose steps are replayed.
_BATCHES: Final = 8


@dataclass(frozen=True, slots=True)
class Prediction:
    """The speed of one configuration, as a multiple of the baseline's.

    Attributes:
        config: The configuration.
        predicted: From the steps that its prompts needed and the latencies of their plans.
        measured: End to end, timed next to the baseline.
    """

    config: DecodingConfig
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Of the prediction, relative to what was measured."""
        return self.predicted / self.measured - 1


def check_predictions(job: Job, pilot: Pilot, timed: Sequence[Timed]) -> list[Prediction]:
    """Predict the speeds of the short list, as time allows, and keep what was learnt for it."""
    if job.settings.objective == "first-block":
        return []  # plans say how long a decode takes, not when its first block is finished
    evaluator, batches = job.evaluator, pilot.tune[:_BATCHES]
    model = CostModel(evaluator.engine, evaluator.key, PlanSpeedStore(job.store), job.budget.clock)
    names = [batch.ids for batch in batches]
    known = {}
    for config in (SPEED_BASELINE, *(item.candidate.config for item in timed)):
        steps = model.steps(evaluator.evidence(config), names)
        if steps is not None:
            known[config.canonical_json()] = steps
    if len(known) < 2 or SPEED_BASELINE.canonical_json() not in known:
        return []
    lengths = [len(evaluator.engine.encode(sample.prompt)) for sample in batches[0].samples]
    if job.budget.left() <= 0:
        return []
    model.learn_plans(plan for steps in known.values() for plan in model.wants(steps))
    base = known[SPEED_BASELINE.canonical_json()]
    seconds = model.seconds(base, model.learn_host(SPEED_BASELINE, lengths))
    found = []
    for item in timed:
        config = item.candidate.config
        steps = known.get(config.canonical_json())
        if steps is None or job.budget.left() <= 0:
            continue
        own = model.seconds(steps, model.learn_host(config, lengths))
        found.append(Prediction(config, seconds / own, item.ratio.median))
    return found


def median_error(predictions: Sequence[Prediction]) -> float | None:
    """The median of the absolute errors; None without predictions."""
    return median(abs(item.error) for item in predictions) if predictions else None
