"""How long decoding takes, from what prompts needed and how long steps take: two tables.

Predicted time replays the scheduler over the needs of the prompts, which quality evidence holds,
and adds up the latencies of the plans, which speed evidence holds. So a configuration that was
decoded anywhere is timed on this machine without decoding a prompt.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from dllmc.autotune.plan_timing import features, time_host, time_plans
from dllmc.policies.axes import AXES
from dllmc.runtime.need import Need
from dllmc.runtime.replay import replay
from dllmc.spec import PlanError, StepPlan
from dllmc.tuning_db.plan_speed import PlanSpeedKey, PlanSpeeds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine
    from dllmc.runtime.replay import ReplayedStep
    from dllmc.tuning_db import Key, QualityEvidence
    from dllmc.tuning_db.plan_speed import HostCost, Latency, PlanSpeedStore

# Of the steps of a configuration, the share whose plans are timed; the latencies of rarer plans
# are read off a plane through the others.
_COVERAGE: Final = 0.97
# Plans of one kind from which on a plane is laid through them.
_ENOUGH: Final = 8


class CostModel:
    """Predicted seconds on this machine.

    Args:
        engine: In the way of execution that will serve.
        key: Circumstances of the job; its batch and length are those of the prediction.
        store: Where latencies are kept.
        clock: Seconds from any start.
        fresh: Whether everything is timed anew, so that nothing has drifted since.
    """

    def __init__(
        self,
        engine: Engine,
        key: Key,
        store: PlanSpeedStore,
        clock: Callable[[], float],
        *,
        fresh: bool = False,
    ) -> None:
        self.engine = engine
        self._length = key.workload.max_new_tokens
        self._clock, self._store = clock, store
        kept = PlanSpeedKey(
            weights_sha256=key.model.weights_sha256,
            dtype=key.model.dtype,
            numerics=key.numerics,
            hardware=key.hardware,
            software=key.software,
            execution=key.execution,
        )
        self.speeds = PlanSpeeds(key=kept) if fresh else store.load(kept)
        self._planes: dict[tuple[object, ...], np.ndarray | None] = {}

    def steps(
        self, evidence: QualityEvidence, batches: Sequence[Sequence[str]]
    ) -> list[list[ReplayedStep]] | None:
        """The steps of each of `batches` of prompts; None where their needs are not known."""
        found = []
        for batch in batches:
            if any(name not in evidence.outcomes for name in batch):
                return None
            runs = [evidence.plans_of(name) for name in batch]
            if not all(runs):
                return None
            try:
                decodes = [[(Need.from_key(key), n) for key, n in run] for run in runs]
            except PlanError:
                return None
            found.append(list(replay(decodes, self.engine.programs)))
        if any(step.joint for steps in found for step in steps):
            return None
        return found

    def wants(self, steps: Iterable[Sequence[ReplayedStep]]) -> list[StepPlan]:
        """The plans of these steps that are to be timed: the most frequent, if not known."""
        counts = Counter(step.plan for batch in steps for step in batch)
        total, covered, wanted = counts.total(), 0, []
        for plan, count in counts.most_common():
            if covered >= _COVERAGE * total:
                break
            covered += count
            if plan.key not in self.speeds.plans:
                wanted.append(plan)
        return wanted

    def learn_plans(self, plans: Iterable[StepPlan]) -> None:
        """Time the programs of `plans`.

        Raises:
            TuningDatabaseError: The database cannot be written.
        """
        new = list(dict.fromkeys(plans))
        if new:
            self.speeds.plans.update(time_plans(self.engine, new, self._clock))
            self._store.save(self.speeds)
            self._planes.clear()

    def knows_host(self, config: DecodingConfig, lengths: Sequence[int]) -> bool:
        """Whether `learn_host` would measure nothing."""
        return host_name(config, len(lengths)) in self.speeds.hosts

    def learn_host(self, config: DecodingConfig, lengths: Sequence[int]) -> HostCost:
        """What decoding with the policies of `config` costs beside its programs.

        Args:
            config: The configuration.
            lengths: Tokens of each prompt of a batch.

        Raises:
            TuningDatabaseError: The database cannot be written.
        """
        name = host_name(config, len(lengths))
        if name not in self.speeds.hosts:
            self.speeds.hosts[name] = time_host(
                self.engine, config, lengths, self._length, self._clock
            )
            self._store.save(self.speeds)
        return self.speeds.hosts[name]

    def seconds(self, steps: Sequence[Sequence[ReplayedStep]], host: HostCost) -> float:
        """Of decoding batches that run `steps`."""
        total = host.call * len(steps)
        factors = np.array([host.step, host.row, host.gather])
        for batch in steps:
            for step in batch:
                total += self._latency(step.plan) + float(factors @ features(step))
        return total

    def _latency(self, plan: StepPlan) -> float:
        known = self.speeds.plans.get(plan.key)
        return known.median if known is not None else self._interpolated(plan)

    def _interpolated(self, plan: StepPlan) -> float:
        kind = _kind(plan)
        if kind not in self._planes:
            self._planes[kind] = _plane(kind, self.speeds.plans)
        plane = self._planes[kind]
        if plane is None:
            self.learn_plans([plan])
            return self.speeds.plans[plan.key].median
        return max(float(_sizes(plan) @ plane), 1e-9)


def host_name(config: DecodingConfig, batch: int) -> str:
    """What host costs are filed by: the kinds of the policies, the blocks, and the batch."""
    kinds = (getattr(config, axis).kind for axis in AXES)
    blocks = config.schedule.model_dump(exclude={"kind"})
    sizes = (f"{name}={value}" for name, value in sorted(blocks.items()))
    return "/".join((*kinds, *sizes, config.statistics, f"batch={batch}"))


def _kind(plan: StepPlan) -> tuple[object, ...]:
    return plan.statistics, plan.mask, plan.inputs, plan.saliency, plan.batch == 1


def _sizes(plan: StepPlan) -> np.ndarray:
    rows, heads = plan.batch * plan.rows, plan.batch * plan.head_rows
    return np.array([1.0, plan.batch, rows, heads, rows * plan.slots])


def _plane(kind: tuple[object, ...], latencies: Mapping[str, Latency]) -> np.ndarray | None:
    """Least squares of the relative error over the known plans of a kind."""
    known = [(StepPlan.from_key(key), value.median) for key, value in latencies.items()]
    known = [(plan, seconds) for plan, seconds in known if _kind(plan) == kind]
    if len(known) < _ENOUGH:
        return None
    matrix = np.array([_sizes(plan) / seconds for plan, seconds in known])
    found: np.ndarray = np.linalg.lstsq(matrix, np.ones(len(known)), rcond=None)[0]
    return found
