"""A pick for other circumstances from evidence, without decoding a prompt to find it."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import pytest

import dllmc
from dllmc.autotune import RetargetReport, retarget
from dllmc.autotune._front import Point, front, verdict_key
from dllmc.autotune.cost import CostModel
from dllmc.autotune.evaluator import Evaluator, as_json, batches
from dllmc.policies.config import QUALITY_REFERENCE, SAFE, SPEED_BASELINE, DecodingConfig
from dllmc.spec import TuningError
from dllmc.tasks import get_task
from dllmc.tuning_db import EvidenceStore, Store
from dllmc.tuning_db.plan_speed import HostCost, Latency, PlanSpeedStore
from dllmc.tuning_db.verdicts import StoredVerdict, VerdictStore

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.runtime import Engine

BATCH, PROMPTS, LENGTH = 4, 8, 8
FAST = SPEED_BASELINE.replace(cache={"kind": "prefix"})
OTHER = SPEED_BASELINE.replace(commit={"kind": "threshold", "threshold": 0.8})


@functools.cache
def engine() -> Engine:
    return dllmc.compile(dllmc.load_model("embedded"), backend="eager").engine()


def evaluator_on(store: Store, batch: int = BATCH) -> Evaluator:
    task = get_task("copy")
    return Evaluator(
        engine(),
        task,
        max_new_tokens=LENGTH,
        batch=batch,
        evidence=EvidenceStore(store),
        clock=time.perf_counter,
    )


def verdict(config: DecodingConfig, **changes: Any) -> StoredVerdict:
    values = {
        "config": as_json(config),
        "seed": 7,
        "study": "earlier",
        "margin": 0.02,
        "n": 300,
        "wins": 0,
        "losses": 0,
        "reference_right": 300,
        "lower_bound": -0.01,
        "p_value": 0.002,
        "passed": True,
        "test": "a test",
        "metric": "exact",
        "split_sha256": "0" * 64,
        "outcomes_sha256": "0" * 64,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return StoredVerdict(**(values | changes))


def remember(
    store: Store,
    verdicts: list[StoredVerdict],
    configs: tuple[DecodingConfig, ...] = (QUALITY_REFERENCE, SPEED_BASELINE, FAST, OTHER),
) -> Evaluator:
    """What an earlier job would have left: answers, what prompts needed, and verdicts."""
    evaluator = evaluator_on(store)
    for batch in batches(evaluator.task.samples("tune", PROMPTS, 0), BATCH):
        for config in configs:
            evaluator.decode(config, batch)
    if verdicts:
        VerdictStore(store).save(verdict_key(evaluator.key, "copy"), "earlier", verdicts)
    return evaluator


def run(store: Store, **options: Any) -> RetargetReport:
    options = {"budget": 1, "max_new_tokens": LENGTH} | options
    return retarget(engine(), "copy", db=store, batch=BATCH, progress=None, **options)


def test_what_was_confirmed_ships_with_its_quality_and_the_speed_measured_here(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    remember(store, [verdict(FAST)])
    report = run(store)
    assert report.status == "confirmed"
    assert report.config == FAST
    assert not report.tested_again
    (record,) = store.records()
    assert record.id == report.record
    assert record.quality is not None
    assert record.quality.n == 300
    assert record.quality.lower_bound == -0.01
    assert record.speed is not None
    assert record.speed.ratio == report.ratio.median if report.ratio else False
    assert [p.config for p in report.predictions] == [FAST]


def test_what_failed_or_was_tested_for_a_wider_margin_does_not_ship(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember(store, [verdict(FAST, passed=False), verdict(OTHER, margin=0.05)])
    report = run(store)
    assert report.status == "safe"
    assert report.config == SAFE
    assert report.unconfirmed is not None


@pytest.mark.slow
def test_a_wider_margin_takes_what_was_confirmed_within_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember(store, [verdict(FAST, passed=False), verdict(OTHER, margin=0.05)])
    assert run(store, margin=0.05).config == OTHER


def test_other_numerics_are_tested_again_on_the_prompts_that_confirmed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    here = remember(store, [])
    there = here.of_numerics("float32/inductor/cpu/highest")
    task = here.task
    for batch in batches(task.samples("tune", PROMPTS, 0), BATCH):
        for config in (QUALITY_REFERENCE, SPEED_BASELINE, FAST):
            there.decode(config, batch)
    held_out = task.samples("confirm", 12, 7)
    for batch in batches(held_out, BATCH):
        there.decode(QUALITY_REFERENCE, batch)
    key = verdict_key(there.key, "copy")
    VerdictStore(store).save(key, "earlier", [verdict(FAST, n=12, margin=0.3)])
    report = run(store, margin=0.3)
    assert report.tested_again
    assert report.status == "confirmed"
    (record,) = store.records()
    assert record.quality is not None
    assert record.quality.n == 12
    (again,) = VerdictStore(store).load(verdict_key(here.key, "copy"))
    assert again.passed
    assert "with float32/eager" in again.study


def test_without_evidence_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"knows no answers of task `copy`.*dllmc tune"):
        run(Store(tmp_path))


def test_prompts_of_another_seed_are_asked_for_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember(store, [verdict(FAST)])
    with pytest.raises(TuningError, match="with seed 5 was decoded"):
        run(store, seed=5)


def test_predicted_seconds_add_up_plans_and_host(tmp_path: Path) -> None:
    store = Store(tmp_path)
    here = remember(store, [])
    model = CostModel(engine(), here.key, PlanSpeedStore(store), time.perf_counter)
    names = [b.ids for b in batches(here.task.samples("tune", PROMPTS, 0), BATCH)]
    steps = model.steps(here.evidence(FAST), names)
    assert steps is not None
    for plan in {step.plan for batch in steps for step in batch}:
        model.speeds.plans[plan.key] = Latency(n=1, median=2.0, low=2.0, high=2.0)
    host = HostCost(n=1, step=0.5, row=0.0, gather=0.0, call=10.0, error=0.0)
    count = sum(map(len, steps))
    assert model.wants(steps) == []
    assert model.seconds(steps, host) == pytest.approx(2.5 * count + 10.0 * len(steps))


def test_the_needs_of_prompts_serve_any_batch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember(store, [])
    single = evaluator_on(store, batch=1)
    model = CostModel(engine(), single.key, PlanSpeedStore(store), time.perf_counter)
    names = [b.ids for b in batches(single.task.samples("tune", PROMPTS, 0), 1)]
    evidence = single.evidence(FAST)
    steps = model.steps(evidence, names)
    assert steps is not None
    assert all(step.plan.batch == 1 for batch in steps for step in batch)
    assert [len(batch) for batch in steps] == [evidence.outcomes[n[0]].nfe for n in names]


def test_the_front_holds_what_nothing_beats_twice() -> None:
    points = [
        Point(SAFE, loss, 10, 1.0, None, ratio)
        for loss, ratio in ((0.0, 1.0), (0.1, 2.0), (0.2, 1.5), (0.05, 2.0), (0.0, 0.5))
    ]
    assert [(p.loss, p.ratio) for p in front(points)] == [(0.05, 2.0), (0.0, 1.0)]
