"""A record for new circumstances from old evidence: only the speed of steps is measured anew.

Quality belongs to weights, prompts and numerics, and is known where a job has confirmed it. What
prompts needed is known too. So on another machine, with other threads, software or batch, it takes
the latencies of the plans to say what is fastest; no prompt is decoded for it. The pick is then
timed end to end, and where the numerics are of another class, tested once more on the prompts that
confirmed it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from dllmc.autotune import noninferiority
from dllmc.autotune._front import (
    Point,
    front,
    known_prompts,
    passed,
    points_of,
    source_of,
    verdict_key,
)
from dllmc.autotune._retarget_record import Circumstances
from dllmc.autotune.budget import Budget, parse_budget
from dllmc.autotune.cost import CostModel
from dllmc.autotune.evaluator import Evaluator, batches
from dllmc.autotune.job import describe
from dllmc.autotune.prediction import Prediction
from dllmc.autotune.progress import Progress, rich_progress, silent
from dllmc.autotune.retarget_report import RetargetReport
from dllmc.autotune.timing import Ratio, median_ratio
from dllmc.policies.config import QUALITY_REFERENCE, SAFE, SPEED_BASELINE, DecodingConfig
from dllmc.spec import TuningError
from dllmc.tasks import get_task
from dllmc.tuning_db import EvidenceStore, Store, default_root, outcomes_digest
from dllmc.tuning_db.plan_speed import PlanSpeedStore
from dllmc.tuning_db.verdicts import VerdictStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dllmc.autotune.progress import Callback
    from dllmc.runtime import Engine
    from dllmc.tasks import Task
    from dllmc.tuning_db import Record
    from dllmc.tuning_db.verdicts import StoredVerdict

# Tune prompts whose steps are replayed, and that the pick is timed on.
_PROMPTS: Final = 128
# Of the predicted fastest, how many are timed end to end, if they are within this share of it.
_TIMED: Final = 3
_CLOSE: Final = 0.85
_FEWEST_ROUNDS: Final = 5
_MOST_ROUNDS: Final = 11
_REFERENCE_PAIRS: Final = 5
# Shares of the budget after which the parts end: latencies, host costs.
_PLANS_UNTIL: Final = 0.45
_HOSTS_UNTIL: Final = 0.65


def retarget(
    engine: Engine,
    task: str | Task,
    *,
    margin: float = 0.02,
    budget: str | float = "60s",
    db: Path | str | Store | None = None,
    batch: int = 16,
    max_new_tokens: int | None = None,
    seed: int = 0,
    progress: Callback | Literal["rich"] | None = "rich",
    clock: Callable[[], float] = time.perf_counter,
) -> RetargetReport:
    """A record for these circumstances from what was learnt under others.

    Args:
        engine: In the way of execution that will serve.
        task: Name of a task, path of a JSONL file, or a task.
        margin: Loss of right answers against `QUALITY_REFERENCE` that is allowed.
        budget: Time, without compiling: seconds or a text such as `60s`.
        db: Tuning database with the evidence; None takes the one of `engine`.
        batch: Prompts decoded together.
        max_new_tokens: Response length in tokens; None takes the task's.
        seed: Of the prompts that the pick is timed on.
        progress: `rich` for bars on standard error, a function, or None.
        clock: Seconds from any start.

    Raises:
        TaskError: There is no such task, or its file is wrong.
        TuningError: There is no evidence to begin with.
        TuningDatabaseError: The database is of a newer version or cannot be written.
    """
    found = get_task(task) if isinstance(task, str) else task
    store = db if isinstance(db, Store) else Store(db or engine.database or default_root())
    store.require_writable()
    shown = rich_progress() if progress == "rich" else contextlib.nullcontext(progress or silent)
    evaluator = Evaluator(
        engine,
        found,
        max_new_tokens=max_new_tokens or found.max_new_tokens,
        batch=batch,
        evidence=EvidenceStore(store),
        clock=clock,
    )
    with shown as callback:
        work = _Retargeting(
            evaluator, store, margin, seed, Budget(parse_budget(budget), clock=clock), callback
        )
        return work.run()


class _Retargeting:
    """The parts of one call, and what they share."""

    def __init__(
        self,
        evaluator: Evaluator,
        store: Store,
        margin: float,
        seed: int,
        budget: Budget,
        callback: Callback,
    ) -> None:
        self.evaluator, self.store, self.margin = evaluator, store, margin
        self.budget, self.callback = budget, callback
        self.seconds: dict[str, float] = {}
        self.source = source_of(evaluator, store, margin)
        self.verdicts = passed(self.source.key, store, evaluator.task.name, margin)
        samples = evaluator.task.samples("tune", _PROMPTS, seed)
        self.samples = known_prompts(self.source, samples, self.verdicts)
        if not self.samples:
            raise TuningError(
                f"no tune prompt of task `{evaluator.task.name}` with seed {seed} was decoded "
                "with all that is confirmed; give the --seed of the job, or tune again"
            )
        self.tune = batches(self.samples, evaluator.key.workload.batch)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.here = Circumstances(evaluator, self.tune, margin, seed, started)
        self.model = CostModel(
            evaluator.engine, evaluator.key, PlanSpeedStore(store), budget.clock, fresh=True
        )

    def run(self) -> RetargetReport:
        known = points_of(self.source, self.samples, self.verdicts, self.margin)
        self._part("evidence")
        points = self._predict(known)
        shown = front(points)
        passed = [point for point in points if point.verdict is not None]
        best = max((point.ratio for point in passed), default=0.0)
        close = [point for point in passed if point.ratio >= _CLOSE * best][:_TIMED]
        ratios = self._time([point.config for point in close])
        self._part("timing")
        reference = self._time_reference()
        self._part("reference")
        predictions = [
            Prediction(point.config, point.ratio, ratios[index].median)
            for index, point in enumerate(close)
        ]
        order = sorted(range(len(close)), key=lambda index: -ratios[index].median)
        again = self.source.key.numerics != self.evaluator.key.numerics
        reason = "no configuration that was confirmed is surely faster than SAFE here"
        for index in order:
            against = _against(ratios[index], reference)
            if against.low <= 1:
                continue
            verdict = close[index].verdict
            assert verdict is not None
            if again:
                tested = self._test_again(close[index].config, verdict)
                self._part("quality")
                if not tested.passed:
                    reason = (
                        f"{describe(close[index].config)} may lose {-tested.lower_bound:.1%} with "
                        f"the numerics `{self.evaluator.key.numerics}`"
                    )
                    continue
                verdict = tested
            point = close[index]
            speed = self.here.speed(point.config, ratios[index], against, point.nfe)
            return self._conclude(
                point,
                ratio=ratios[index],
                record=self.here.record(point.config, verdict, speed),
                shown=shown,
                predictions=predictions,
                again=again,
            )
        record = self.here.record(SAFE, reason=reason, reject="speed")
        return self._conclude(
            None, record=record, reason=reason, shown=shown, predictions=predictions
        )

    def _part(self, name: str) -> None:
        """File the time since the last part under `name`."""
        known = sum(self.seconds.values())
        self.seconds[name] = self.seconds.get(name, 0.0) + self.budget.spent - known
        self.callback(
            Progress("retargeting", len(self.seconds), None, self.budget.spent, self.budget.total)
        )

    def _predict(self, points: Sequence[Point]) -> list[Point]:
        """The points with their predicted speeds, fastest first."""
        model, names = self.model, [batch.ids for batch in self.tune]
        steps = {}
        for point in points:
            found = model.steps(self.source.evidence(point.config), names)
            if found is not None:
                steps[point.config] = found
        base = model.steps(self.source.evidence(SPEED_BASELINE), names)
        if base is None or not steps:
            raise TuningError(
                f"what the prompts of task `{self.evaluator.task.name}` needed is not known; run "
                "dllmc tune once, here or anywhere, and keep its database"
            )
        # Those that are confirmed first, since one of them will ship.
        ordered = sorted(steps, key=lambda config: _rank(config, points))
        model.learn_plans(model.wants(base))
        for config in ordered:
            if self.budget.left(_PLANS_UNTIL) > 0:
                model.learn_plans(model.wants(steps[config]))
        self._part("latencies")
        lengths = [
            len(self.evaluator.engine.encode(sample.prompt)) for sample in self.tune[0].samples
        ]
        usual = model.learn_host(SPEED_BASELINE, lengths)
        seconds = model.seconds(base, usual)
        rough = {config: seconds / model.seconds(steps[config], usual) for config in ordered}
        ratios = {}
        for config in sorted(ordered, key=lambda c: (_rank(c, points), -rough[c])):
            host = usual
            if self.budget.left(_HOSTS_UNTIL) > 0 or model.knows_host(config, lengths):
                host = model.learn_host(config, lengths)
            ratios[config] = seconds / model.seconds(steps[config], host)
        self._part("host")
        known = [
            replace(point, ratio=ratios[point.config])
            for point in points
            if point.config in ratios
        ]
        return sorted(known, key=lambda point: -point.ratio)

    def _time(self, configs: Sequence[DecodingConfig]) -> list[Ratio]:
        """End-to-end speeds as multiples of the baseline's, all timed in turns."""
        evaluator = self.evaluator
        found: list[list[float]] = [[] for _ in configs]
        for turn in range(_MOST_ROUNDS if configs else 0):
            if turn >= _FEWEST_ROUNDS and self.budget.left(0.9) <= 0:
                break
            batch = self.tune[turn % len(self.tune)]
            for index, config in enumerate(configs):
                first = turn % 2 == 0
                pair = evaluator.time(config, "SPEED_BASELINE", batch, "final", first=first)
                found[index].append(pair.ratio)
        return [median_ratio(ratios) for ratios in found]

    def _time_reference(self) -> Ratio:
        """The reference's, whose long decodes need fewer timings."""
        pairs = [
            self.evaluator.time(QUALITY_REFERENCE, "SPEED_BASELINE", self.tune[0], "final")
            for _ in range(_REFERENCE_PAIRS)
        ]
        return median_ratio([pair.ratio for pair in pairs])

    def _test_again(self, config: DecodingConfig, verdict: StoredVerdict) -> StoredVerdict:
        """The verdict of the same prompts with the numerics of this engine."""
        evaluator, task = self.evaluator, self.evaluator.task
        prompts = batches(
            task.samples("confirm", verdict.n, verdict.seed), evaluator.key.workload.batch
        )
        reference = self.source.outcomes(QUALITY_REFERENCE)
        for batch in prompts:
            if not evaluator.knows(config, batch):
                evaluator.decode(config, batch)
        own = evaluator.outcomes(config)
        names = [name for batch in prompts for name in batch.ids if name in reference]
        wins = sum(own[name].correct > reference[name].correct for name in names)
        losses = sum(own[name].correct < reference[name].correct for name in names)
        p_value = noninferiority.p_value(wins, losses, len(names), self.margin)
        tested = verdict.model_copy(
            update={
                "study": f"{verdict.study} with {evaluator.key.numerics}",
                "n": len(names),
                "wins": wins,
                "losses": losses,
                "reference_right": sum(reference[name].correct for name in names),
                "lower_bound": noninferiority.lower_bound(wins, losses, len(names), self.margin),
                "p_value": p_value,
                "passed": p_value <= noninferiority.ALPHA,
                "outcomes_sha256": outcomes_digest(names, reference, own),
                "margin": self.margin,
                "started": self.here.started,
            }
        )
        key = verdict_key(evaluator.key, task.name)
        VerdictStore(self.store).save(key, f"{tested.study} {config.canonical_json()}", [tested])
        return tested

    def _conclude(
        self,
        point: Point | None,
        *,
        ratio: Ratio | None = None,
        record: Record,
        reason: str | None = None,
        shown: list[Point],
        predictions: list[Prediction],
        again: bool = False,
    ) -> RetargetReport:
        least = 0.0 if point is None else point.ratio
        better = [p for p in shown if p.verdict is None and p.ratio > least]
        path = self.store.put(record)
        return RetargetReport(
            task=self.evaluator.task.name,
            status="safe" if point is None else "confirmed",
            reason=reason,
            config=SAFE if point is None else point.config,
            ratio=ratio,
            front=shown,
            predictions=predictions,
            tested_again=again,
            unconfirmed=better[0] if better else None,
            seconds={**self.seconds, "all": self.budget.spent},
            record=record.id,
            path=path,
        )


def _rank(config: DecodingConfig, points: Sequence[Point]) -> int:
    return 0 if next(p for p in points if p.config == config).verdict is not None else 1


def _against(own: Ratio, reference: Ratio) -> Ratio:
    """Speed as a multiple of the reference's, from two ratios to the baseline."""
    return Ratio(
        min(own.n, reference.n),
        own.median / reference.median,
        own.low / reference.high,
        own.high / reference.low,
        own.confidence + reference.confidence - 1,
    )
