"""Tuning of a model whose weights were rounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from planted_world import SPACE, PlantedEngine, loss

from dllmc.autotune import TuningReport, tune
from dllmc.policies.config import QUALITY_REFERENCE
from dllmc.spec import TuningError
from dllmc.tuning_db import Store

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.policies.config import DecodingConfig

pytestmark = pytest.mark.usefixtures("in_memory")


@dataclass
class Whole(PlantedEngine):
    """The model as it was; what it takes is time of `beside` too."""

    beside: PlantedEngine = field(default_factory=PlantedEngine)

    def generate(self, prompt: list[str], **options: Any) -> Any:
        begun = self.now
        found = super().generate(prompt, **options)
        self.beside.now += self.now - begun
        return found


def rounded(lost: float) -> PlantedEngine:
    """Answers `lost` of all prompts worse, however it decodes."""

    def also(config: DecodingConfig) -> float:
        return loss(config) + lost

    package = SimpleNamespace(graph_sha256=None, passes_sha256=None, records=[], precision="int8")
    return PlantedEngine(loss=also, package=package, weights_sha256="cd" * 32)


def job(path: Path, engine: PlantedEngine, **options: Any) -> TuningReport:
    given: dict[str, Any] = {"budget": 900, "batch": 64, "db": path, "progress": None}
    return tune(engine, "copy", clock=engine.clock, space=SPACE, **(given | options))


def test_it_is_judged_by_what_the_model_answered_before(tmp_path: Path) -> None:
    engine = rounded(0.1)
    whole = Whole(beside=engine)
    report = job(tmp_path, engine, reference=whole)
    assert report.status == "safe"
    assert report.reason is not None
    assert report.reason.endswith("; rounding to int8 was not confirmed either")
    [record] = Store(tmp_path).records()
    assert record.reason == report.reason
    assert any("rounding was not either" in note for note in report.notes)
    assert whole.calls > 0


def test_rounding_that_costs_nothing_is_confirmed(tmp_path: Path) -> None:
    asked: list[str] = []
    engine = rounded(0.0)
    engine.log = lambda config, _: asked.append(config)
    report = job(tmp_path, engine, reference=Whole(beside=engine))
    assert report.status == "confirmed"
    # The rounded model's own answers in the reference's way of decoding are not asked for.
    assert QUALITY_REFERENCE.canonical_json() not in asked


def test_without_the_model_as_it_was_there_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=r"rounded to int8, .* `reference` \(--reference\)"):
        job(tmp_path, rounded(0.0))


def test_a_reference_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TuningError, match="those of `planted` are as they came; leave it out"):
        job(tmp_path, PlantedEngine(), reference=PlantedEngine())
    with pytest.raises(TuningError, match="is not the model as it was"):
        job(tmp_path, rounded(0.0), reference=rounded(0.0))


def test_another_reference_is_another_job(tmp_path: Path) -> None:
    studies = []
    for sha in ("ab", "ab", "ef"):
        engine = rounded(0.0)
        whole = Whole(beside=engine, weights_sha256=sha * 32)
        studies.append(job(tmp_path, engine, reference=whole, trials=4).study)
    assert studies[0] == studies[1] != studies[2]
