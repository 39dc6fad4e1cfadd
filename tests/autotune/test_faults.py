"""What befalls a machine while it tunes, other than the death of a process (`test_resume.py`)."""

from __future__ import annotations

import errno
import math
import tempfile
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

import pytest
from planted_world import SPACE, PlantedEngine

from dllmc.autotune import TuningReport, run, tune
from dllmc.autotune.space import PRESETS
from dllmc.spec import TuningDatabaseError, TuningError
from dllmc.tuning_db import EvidenceStore, Store, verify

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("in_memory")

BUDGET = 900
HOUR = 3600.0


class Killed(BaseException):
    """Stands for a signal."""


@dataclass
class Exact(PlantedEngine):
    """Has timings without noise, and dies after so many batches."""

    noise: float = 0.0
    lasts: float = math.inf

    def generate(self, prompt: Any, **options: Any) -> Any:
        if self.calls >= self.lasts:
            raise Killed
        return super().generate(prompt, **options)


def job(db: Path | Store, engine: PlantedEngine, **options: Any) -> TuningReport:
    """A job that comes to the same however it is interrupted: all it evaluates are presets."""
    wanted = {
        "margin": 0.05,
        "budget": None,
        "trials": len(PRESETS),
        "batch": 64,
        "db": db,
        "progress": None,
        "space": SPACE,
        "clock": engine.clock,
    }
    return tune(engine, "copy", **{**wanted, **options})


def found(report: TuningReport) -> tuple[Any, ...]:
    """What a report says, but for times, which do not add up to the last bit."""
    return (report.status, report.config, report.trials, report.verdicts, report.record)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def answers(root: Path) -> dict[tuple[str, str], Any]:
    store = EvidenceStore(Store(root))
    return {
        (each.key.model_dump_json(), name): outcome
        for each in store.every_quality(PlantedEngine().weights_sha256)
        for name, outcome in each.outcomes.items()
    }


@pytest.mark.parametrize("batches", [3, pytest.param(80, marks=pytest.mark.slow)])
def test_a_clock_that_is_set_back_makes_no_job_longer(tmp_path: Path, batches: int) -> None:
    engine = PlantedEngine()

    def clock() -> float:
        return engine.now - (HOUR if engine.calls > batches else 0.0)

    report = job(tmp_path, engine, margin=0.02, budget=BUDGET, trials=None, clock=clock)
    assert report.status == "confirmed"
    assert engine.now < BUDGET
    assert report.spent == pytest.approx(engine.now, rel=0.02)
    assert verify(Store(tmp_path)) == []


def at(text: str) -> type[datetime]:
    class Fixed(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Fixed:
            return cls.fromisoformat(text).replace(tzinfo=tz)

    return Fixed


def test_a_day_that_is_set_back_before_a_job_goes_on_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = job(tmp_path / "whole", Exact())
    monkeypatch.setattr(run, "datetime", at("2026-11-26T12:00:00"))
    with pytest.raises(Killed):
        job(tmp_path / "killed", Exact(lasts=40))
    monkeypatch.setattr(run, "datetime", at("2026-11-25T12:00:00"))
    report = job(tmp_path / "killed", Exact(now=-HOUR))
    assert found(report) == found(expected)
    [record] = Store(tmp_path / "killed").records()
    assert record.provenance.started == "2026-11-26T12:00:00+00:00"


def test_a_read_only_database_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    engine = PlantedEngine()
    with pytest.raises(TuningDatabaseError, match="is read-only; name another with --db"):
        job(Store(tmp_path / "db", read_only=True), engine)
    assert engine.calls == 0
    assert files(tmp_path) == set()


def test_a_database_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    # Below a file nobody can write, the superuser neither.
    (tmp_path / "file").write_text("")
    engine = PlantedEngine()
    with pytest.raises(TuningError, match=r"cannot be written \(Not a directory\)"):
        job(tmp_path / "file" / "db", engine)
    assert engine.calls == 0
    assert files(tmp_path) == {"file"}


@pytest.mark.parametrize(
    ("code", "batches"),
    [
        (errno.EROFS, 100),
        (errno.ENOSPC, 1),
        pytest.param(errno.EROFS, 40, marks=pytest.mark.slow),
        pytest.param(errno.ENOSPC, 40, marks=pytest.mark.slow),
        pytest.param(errno.ENOSPC, 100, marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_cannot_be_written_under_way_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, batches: int
) -> None:
    expected = job(tmp_path / "whole", Exact())
    engine, make = Exact(), tempfile.mkstemp

    def refuse(*arguments: Any, **options: Any) -> Any:
        if engine.calls > batches:
            raise OSError(code, "as the test says")
        return make(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "mkstemp", refuse)
        with pytest.raises(TuningDatabaseError, match=r"cannot write .* \(as the test says\)"):
            job(tmp_path / "db", engine)
    known = answers(tmp_path / "db")
    assert found(job(tmp_path / "db", Exact())) == found(expected)
    assert known.items() <= answers(tmp_path / "db").items()
    assert verify(Store(tmp_path / "db")) == []
    assert not list(tmp_path.rglob("*.tmp"))
