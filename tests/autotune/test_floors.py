"""The two floors of a job: what they say, that they are found once, and why there may be none."""

from __future__ import annotations

import json
import time
from statistics import mean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from lockstep.trained import trained_engine
from planted_world import SPACE, PlantedEngine

from dllmc.autotune import _floors_page, tune
from dllmc.autotune import floors as floors_module
from dllmc.autotune.budget import Budget
from dllmc.autotune.evaluator import Evaluator, batches
from dllmc.autotune.floors import floors
from dllmc.autotune.page import page
from dllmc.compiler.explain import floor
from dllmc.compiler.machine import Machine
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.runtime import oracle
from dllmc.spec import StepPlan
from dllmc.tasks import get_task
from dllmc.tuning_db import EvidenceStore, Store

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = Machine(bandwidth=1e10, rate=1e11)
PICK = DecodingConfig(commit={"kind": "quota", "steps": 4}, schedule={"kind": "whole"})


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors_module, "measure", lambda *_: MACHINE)


class Study:
    """What of a study the floors need."""

    def __init__(self) -> None:
        self.user_attrs: dict[str, Any] = {}

    def set_user_attr(self, name: str, value: Any) -> None:
        self.user_attrs[name] = json.loads(json.dumps(value))


def job_of(path: Path, engine: Any = None, **changes: Any) -> Any:
    """A job whose prompts are decoded and timed."""
    store, task = Store(path), get_task("copy")
    evaluator = Evaluator(
        engine or trained_engine(),
        task,
        max_new_tokens=8,
        batch=4,
        evidence=EvidenceStore(store),
        clock=time.perf_counter,
    )
    job = SimpleNamespace(
        evaluator=evaluator,
        settings=SimpleNamespace(batch=4, length=8, objective="throughput"),
        study=Study(),
        store=store,
        budget=Budget(None),
        tell=lambda *_: None,
    )
    vars(job).update(changes)
    tuned_on = batches(task.samples("tune", 8, 0), 4)
    for batch in tuned_on:
        for config in (QUALITY_REFERENCE, SPEED_BASELINE, PICK):
            evaluator.decode(config, batch)
        evaluator.time(PICK, "SPEED_BASELINE", batch, "search")
    return job, SimpleNamespace(tune=tuned_on, reference_seconds=0.01)


def test_the_oracle_is_compared_with_what_the_prompts_needed(tmp_path: Path) -> None:
    job, pilot = job_of(tmp_path)
    found = floors(job, pilot, PICK)["oracle"]
    engine, prompts = trained_engine(), get_task("copy").samples("tune", 8, 0)
    least = oracle.floors(
        engine, [engine.encode(s.prompt) for s in prompts], max_new_tokens=8, block_length=8
    )
    assert found["nfe"] == mean(item.nfe for item in least)
    assert (found["prompts"], found["block_length"]) == (8, 8)
    assert found["nfe_of"]["QUALITY_REFERENCE"] >= found["nfe"]
    assert list(found["nfe_of"]) == ["QUALITY_REFERENCE", "SPEED_BASELINE", "tuned"]
    assert found["nfe_of"]["tuned"] <= 4


def test_the_roofline_is_the_sum_over_the_steps_that_ran(tmp_path: Path) -> None:
    job, pilot = job_of(tmp_path)
    found = floors(job, pilot, PICK)["roofline"]
    engine, ran = trained_engine(), []
    for batch in pilot.tune:
        prompts = [engine.encode(sample.prompt) for sample in batch.samples]
        pool, states = engine.open(prompts, PICK, 8)
        while (outcome := engine.step(pool, states)) is not None:
            ran.append(floor(engine.package, outcome.plan))
    seconds = [f.seconds(bandwidth=MACHINE.bandwidth, rate=MACHINE.rate) for f in ran]
    assert found["floor_seconds"] == pytest.approx(sum(seconds) / 8)
    assert found["times"] == found["seconds"] / found["floor_seconds"]
    assert (found["prompts"], found["bandwidth"], found["rate"]) == (8, 1e10, 1e11)


def test_a_job_that_is_resumed_repeats_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, pilot = job_of(tmp_path)
    first = floors(job, pilot, PICK)
    monkeypatch.setattr(floors_module, "oracle", None)
    monkeypatch.setattr(floors_module, "measure", None)
    job.budget = Budget(1.0, spent=2.0)
    assert floors(job, pilot, PICK) == first


def test_where_safe_ships_there_is_no_tuned_configuration(tmp_path: Path) -> None:
    job, pilot = job_of(tmp_path)
    job.evaluator.time(QUALITY_REFERENCE, "SPEED_BASELINE", pilot.tune[0], "search")
    found = floors(job, pilot, QUALITY_REFERENCE)
    assert list(found["oracle"]["nfe_of"]) == ["QUALITY_REFERENCE", "SPEED_BASELINE"]
    assert found["roofline"]["times"] > 0


@pytest.mark.parametrize("left", [0.0, 0.07])
def test_without_time_both_are_left_out(tmp_path: Path, left: float) -> None:
    # The fewest prompts, four, take 0.08 s.
    job, pilot = job_of(tmp_path, budget=Budget(5.0 + left, spent=5.0, clock=lambda: 0.0))
    told = "there was no time left; raise the budget"
    assert floors(job, pilot, PICK) == {name: {"skipped": told} for name in ("oracle", "roofline")}
    assert job.study.user_attrs == {}


def test_little_time_asks_the_oracle_for_fewer_prompts(tmp_path: Path) -> None:
    job, pilot = job_of(tmp_path, budget=Budget(5.11, spent=5.0, clock=lambda: 0.0))
    assert floors(job, pilot, PICK)["oracle"]["prompts"] == 5


def test_a_first_block_has_no_roofline(tmp_path: Path) -> None:
    job, pilot = job_of(tmp_path)
    job.settings.objective = "first-block"
    found = floors(job, pilot, PICK)
    assert "ends with the first block" in found["roofline"]["skipped"]
    assert found["oracle"]["nfe"] > 0


def test_steps_that_are_not_known_have_no_roofline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, pilot = job_of(tmp_path)
    monkeypatch.setattr(floors_module.CostModel, "steps", lambda *_: None)
    found = floors(job, pilot, PICK)
    assert found["roofline"] == {"skipped": "it is not known which steps its prompts needed"}


def test_what_a_plan_adds_to_its_floor_does_not_count() -> None:
    sizes: dict[str, Any] = {"batch": 2, "rows": 8, "head_rows": 8, "slots": 32}
    plan = StepPlan(
        **sizes,
        scratch=4,
        statistics="greedy+entropy+top8",
        mask="limit+tree",
        inputs="mixture4",
        saliency=True,
        dtype="float32",
    )
    plain = floors_module._plain(plan)
    assert floor(trained_engine().package, plain) == floor(
        trained_engine().package, StepPlan(**sizes, dtype="float32")
    )


def test_an_engine_without_a_package_says_so_on_the_page(tmp_path: Path) -> None:
    engine = PlantedEngine()
    report = tune(
        engine,
        "copy",
        trials=2,
        budget=None,
        batch=64,
        db=tmp_path,
        space=SPACE,
        progress=None,
        clock=engine.clock,
    )
    value = json.loads(report.page.with_suffix(".json").read_text(encoding="utf-8"))
    reason = "the engine decodes with no compiled package"
    assert value["floors"] == {name: {"skipped": reason} for name in ("oracle", "roofline")}
    text = report.page.read_text(encoding="utf-8")
    assert f"No oracle floor: {reason}." in text
    assert f"No roofline floor: {reason}." in text
    # A page of before there were any.
    assert "What is possible" not in page({k: v for k, v in value.items() if k != "floors"})


def test_the_page_shows_both(tmp_path: Path) -> None:
    job, pilot = job_of(tmp_path)
    found = floors(job, pilot, PICK)
    text = "".join(_floors_page.section({"floors": found}))
    assert f"{found['oracle']['nfe']:.1f}" in text
    assert f"{found['oracle']['nfe_of']['tuned'] / found['oracle']['nfe']:.2f}" in text
    assert f"{found['roofline']['times']:.1f} times the roofline floor" in text
    assert "reads 10.0 GB/s and multiplies at 100 GFLOP/s" in text
