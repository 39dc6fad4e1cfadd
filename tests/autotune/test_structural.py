"""The batch and compiled decisions: timed, never judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from planted_world import SPACE, PlantedEngine

from dllmc.autotune import help_tune, tune
from dllmc.autotune.structural import Structure, read_structure
from dllmc.spec import TuningError
from dllmc.tuning_db import Store

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.policies.config import DecodingConfig

pytestmark = pytest.mark.usefixtures("in_memory")


@dataclass
class Selects:
    """Which structures were asked to decide by a compiled function."""

    wanted: set[Any] = field(default_factory=set)

    def want(self, config: DecodingConfig, wanted: bool = True) -> None:
        (self.wanted.add if wanted else self.wanted.discard)(config.structure)


@dataclass
class ChoosingEngine(PlantedEngine):
    """Loses time with every call and with every prompt over 24; compiled decisions cost `factor`.

    Args:
        factor: Of the seconds.
    """

    factor: float = 0.8
    backend: str = "inductor"
    selects: Selects = field(default_factory=Selects)
    decoded: list[tuple[int, bool]] = field(default_factory=list)

    def generate(self, prompt: list[str], **options: Any) -> Any:
        begun, compiled = self.now, options["config"].structure in self.selects.wanted
        self.decoded.append((len(prompt), compiled))
        found = super().generate(prompt, **options)
        if compiled:
            self.now = begun + (self.now - begun) * self.factor
        self.now += 0.05 + 0.1 * max(0, len(prompt) - 24)
        return found


def run(engine: PlantedEngine, folder: Path, **options: Any) -> Any:
    given: dict[str, Any] = {
        "margin": 0.02,
        "budget": 900,
        "trials": 12,
        "db": folder,
        "progress": None,
        "clock": engine.clock,
    }
    space = SPACE | options.pop("space", {})
    return tune(engine, "copy", **(given | options), space=space)


def test_the_fastest_batch_is_chosen_and_timed_once(tmp_path: Path) -> None:
    engine = ChoosingEngine()
    report = run(engine, tmp_path, space={"batch": [4, 24, 64]})
    [record] = Store(tmp_path).records()
    assert record.key.workload.batch == 24
    assert any("batch 24 was chosen" in note for note in report.notes)
    engine.decoded.clear()
    again = run(engine, tmp_path, space={"batch": [4, 24, 64]})
    assert again.record == report.record
    assert engine.decoded == []


@pytest.mark.parametrize(("factor", "neutral"), [(0.8, {"select": "compiled"}), (1.1, {})])
def test_decisions_are_compiled_where_that_is_faster(
    tmp_path: Path, factor: float, neutral: dict[str, str]
) -> None:
    engine = ChoosingEngine(factor=factor)
    report = run(engine, tmp_path, batch=16)
    assert report.status == "confirmed"
    [record] = Store(tmp_path).records()
    assert record.neutral == neutral
    assert any("compiled function" in note for note in report.notes)


def test_the_baseline_is_timed_as_it_is_whatever_the_finalist_does(tmp_path: Path) -> None:
    """A finalist of the baseline's structure would otherwise make it faster too."""
    kinds = {"commit": "threshold", "cache": "dual", "schedule.block_length": [4, 8]}
    ratios = {}
    for factor in (0.5, 1.1):
        engine = ChoosingEngine(factor=factor)
        report = run(engine, tmp_path / str(factor), batch=16, space=kinds)
        row = report.row("tuned")
        assert row is not None
        ratios[factor] = row.ratio
    assert ratios[0.5] > 1.4 * ratios[1.1]


def test_a_short_job_compiles_decisions_only_if_told(tmp_path: Path) -> None:
    engine = ChoosingEngine()
    run(engine, tmp_path / "short", batch=16, budget=300)
    assert not any(compiled for _, compiled in engine.decoded)
    run(engine, tmp_path / "told", batch=16, budget=300, space={"select": "compiled"})
    assert [record.neutral for record in Store(tmp_path / "told").records()] == [
        {"select": "compiled"}
    ]


def test_a_worker_is_told_the_batch(tmp_path: Path) -> None:
    engine = ChoosingEngine()
    with pytest.raises(TuningError, match=r"a worker cannot choose of batch=8,16"):
        help_tune(engine, "copy", db=tmp_path, space={"batch": [8, 16]}, clock=engine.clock)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"batch": [8, "many"]}, "batch='many' is no number of prompts"),
        ({"batch": 0}, "batch=0 is no number"),
        ({"select": "compield"}, "select='compield' is unknown; did you mean"),
    ],
)
def test_what_is_no_choice_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(TuningError, match=message):
        read_structure(space, batch=16, objective="throughput", backend="inductor", long=True)


def test_a_choice_that_is_not_there_is_refused() -> None:
    with pytest.raises(TuningError, match="objective latency does not have"):
        read_structure(
            {"batch": [1, 2]}, batch=1, objective="latency", backend="inductor", long=True
        )
    with pytest.raises(TuningError, match="needs a back end that compiles"):
        read_structure(
            {"select": "compiled"}, batch=1, objective="latency", backend="eager", long=True
        )


def test_more_than_the_prompts_there_are_is_refused(tmp_path: Path) -> None:
    lines = [f'{{"prompt": "copy: {i}", "reference": "{i}", "split": "tune"}}' for i in range(9)]
    file = tmp_path / "few.jsonl"
    file.write_text("\n".join(lines))
    engine = ChoosingEngine()
    with pytest.raises(TuningError, match=r"batch=64 exceeds the 9 tune prompts"):
        tune(engine, str(file), db=tmp_path, space={"batch": [8, 64]}, progress=None)


def test_the_rest_of_the_space_stays() -> None:
    structure, left = read_structure(
        {"commit": "threshold", "batch": 8},
        batch=16,
        objective="throughput",
        backend="eager",
        long=True,
    )
    assert structure == Structure((8,), ("plain",))
    assert left == {"commit": "threshold"}


def test_without_time_decisions_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dllmc.autotune.structural._UNTIL", 0.0)
    engine = ChoosingEngine()
    report = run(engine, tmp_path, batch=16)
    assert report.status == "confirmed"
    assert [record.neutral for record in Store(tmp_path).records()] == [{}]
