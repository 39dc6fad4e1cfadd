"""Records are checked against their evidence, and by decoding a sample again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from planted_world import SPACE, PlantedEngine

from dllmc.autotune import tune
from dllmc.autotune.recheck import recheck
from dllmc.tuning_db import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from dllmc.policies.config import DecodingConfig


def bad(config: DecodingConfig) -> float:
    del config
    return 0.5


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    engine, folder = PlantedEngine(), tmp_path_factory.mktemp("tuned")
    report = tune(
        engine,
        "copy",
        budget=900,
        batch=64,
        db=folder,
        space=SPACE,
        progress=None,
        clock=engine.clock,
    )
    assert report.status == "confirmed"
    return folder


@pytest.fixture
def database(tuned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned, tmp_path / "db"))


def test_a_record_that_holds_has_the_same_answers(database: Path) -> None:
    [checked] = recheck(PlantedEngine(), Store(database), sample=100)
    assert checked.problem is None
    assert checked.compared == checked.same == 100
    assert "100 of 100 answers are the same" in str(checked)


def test_other_answers_with_the_same_numerics_are_a_problem(database: Path) -> None:
    worse = PlantedEngine(loss=bad)
    [checked] = recheck(worse, Store(database), sample=100)
    assert checked.same < checked.compared
    assert checked.problem is not None
    assert "answers are not what they were" in checked.problem


def test_with_other_numerics_it_says_how_many_are_the_same(database: Path) -> None:
    other = PlantedEngine(loss=bad, numerics="float32/inductor/cpu/highest")
    [checked] = recheck(other, Store(database), sample=100)
    assert checked.problem is None
    assert 0 < checked.same < checked.compared


def test_records_of_other_weights_are_left_alone(database: Path) -> None:
    assert recheck(PlantedEngine(weights_sha256="cd" * 32), Store(database)) == []


def flip(value: dict[str, Any]) -> None:
    for outcome in value["outcomes"].values():
        outcome[0] = not outcome[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (flip, "has other answers"),
        (lambda value: value["outcomes"].clear(), "not in the evidence"),
    ],
    ids=["changed", "missing"],
)
def test_evidence_that_is_not_what_confirmed_is_a_problem(
    database: Path, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    [record] = Store(database).records()
    for path in database.glob("v2/evidence/quality/*/*.json"):
        value = json.loads(path.read_text())
        if value["key"]["config"] == record.config:
            change(value)
            path.write_text(json.dumps(value))
    [checked] = recheck(PlantedEngine(), Store(database))
    assert checked.problem is not None
    assert problem in checked.problem


def test_without_evidence_it_says_so(database: Path, tmp_path: Path) -> None:
    [record] = Store(database).records()
    alone = Store(tmp_path / "alone")
    alone.put(record)
    [checked] = recheck(PlantedEngine(), alone)
    assert checked.problem == "cannot be checked: its evidence is not here"
