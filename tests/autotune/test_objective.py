"""What is tuned for, and how much effort goes into it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from planted_world import SPACE, PlantedEngine

import dllmc
from dllmc.autotune import tune
from dllmc.autotune.budget import EFFORTS, FROM_EFFORT, with_effort
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE
from dllmc.runtime.records import key_of
from dllmc.spec import TuningError
from dllmc.tuning_db import Level, Store, lookup

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.runtime import Engine


@functools.cache
def embedded() -> Engine:
    return dllmc.compile(dllmc.load_model("embedded"), backend="eager").engine()


def job(path: Path, engine: PlantedEngine, **options: Any) -> Any:
    wanted: dict[str, Any] = {"budget": None, "trials": 2, "space": SPACE} | options
    return tune(engine, "copy", db=path, progress=None, clock=engine.clock, **wanted)


def test_latency_is_tuned_for_a_prompt_alone(tmp_path: Path) -> None:
    job(tmp_path, PlantedEngine(), objective="latency")
    [record] = Store(tmp_path).records()
    assert record.key.workload.objective == "latency"
    assert record.key.workload.batch == 1
    assert "--objective latency" in record.provenance.command


def test_records_of_another_objective_fit_less_well(tmp_path: Path) -> None:
    engine = PlantedEngine()
    found = job(tmp_path, engine, budget=900, trials=None, batch=64)
    assert found.status == "confirmed"
    query = {"task": "copy", "batch": 64, "max_new_tokens": 32}
    same = lookup(key_of(engine, **query), [Store(tmp_path)])
    other = lookup(key_of(engine, objective="latency", **query), [Store(tmp_path)])
    assert same.level is Level.EXACT
    assert other.level is Level.BUCKET
    assert "for throughput" in other.reasons[0]


def test_the_first_block_is_timed_from_where_a_sequence_is_laid_out() -> None:
    blocks = {"kind": "blocks", "block_length": 8}
    configs = [
        QUALITY_REFERENCE.replace(schedule=blocks, stop={"kind": "length"}),
        QUALITY_REFERENCE.replace(stop={"kind": "length"}),
    ]
    short, whole = (
        embedded().generate("copy: a b c", config=config, max_new_tokens=32) for config in configs
    )
    assert 0 < short.first_block_seconds < 0.6 * short.seconds
    assert 0.6 * whole.seconds < whole.first_block_seconds <= whole.seconds


def test_each_sequence_of_a_batch_has_its_own_first_block() -> None:
    found = embedded().generate(["copy: a", "copy: a b c d"], config=SPEED_BASELINE)
    assert len(found.first_block_seconds) == 2
    assert all(0 < seconds < found.seconds for seconds in found.first_block_seconds)


def test_an_objective_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="`objective`='latence' is unknown"):
        job(tmp_path, PlantedEngine(), objective="latence")


def test_an_effort_gives_time_and_trials_that_are_not_given() -> None:
    assert with_effort(None, FROM_EFFORT, None) == ("10m", None)
    assert with_effort(None, None, 5) == (None, 5)
    assert with_effort("quick", FROM_EFFORT, None) == EFFORTS["quick"]
    assert with_effort("quick", "7s", 3) == ("7s", 3)
    with pytest.raises(TuningError, match="`effort`='fast' is unknown"):
        with_effort("fast", None, None)
