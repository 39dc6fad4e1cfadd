from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState

from dllmc.autotune.study import open_study
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = {"margin": 0.02, "task": "copy"}


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_a_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "studies.sqlite3"
    with open_study(path, "s", IDENTITY, 0) as study:
        study.tell(study.ask(), 1.5)
    with open_study(f"sqlite:///{path}", "s", IDENTITY, 0) as study:
        assert [trial.value for trial in study.trials] == [1.5]


def test_a_trial_that_was_running_is_queued_again_with_its_parameters(tmp_path: Path) -> None:
    path = tmp_path / "studies.sqlite3"
    with open_study(path, "s", IDENTITY, 0) as study:
        study.enqueue_trial({"x": 0.25}, user_attrs={"preset": "p"})
        study.ask().suggest_float("x", 0, 1)
        drawn = study.ask().suggest_float("x", 0, 1)
    with open_study(path, "s", IDENTITY, 0) as study:
        assert states(study) == ["FAIL", "FAIL", "WAITING", "WAITING"]
        again = [study.ask(), study.ask()]
        assert [trial.suggest_float("x", 0, 1) for trial in again] == [0.25, drawn]
        assert [trial.user_attrs.get("preset") for trial in again] == ["p", None]


def test_a_preset_that_was_not_begun_keeps_its_fixed_parameters(tmp_path: Path) -> None:
    path = tmp_path / "studies.sqlite3"
    with open_study(path, "s", IDENTITY, 0) as study:
        study.enqueue_trial({"x": 0.25})
        study.ask()  # killed before the first parameter
    with open_study(path, "s", IDENTITY, 0) as study:
        assert study.ask().suggest_float("x", 0, 1) == 0.25


def test_a_resumed_study_does_not_draw_what_it_drew(tmp_path: Path) -> None:
    drawn = []
    for _ in range(3):
        with open_study(tmp_path / "s.sqlite3", "s", IDENTITY, 0) as study:
            trial = study.ask()
            drawn.append(trial.suggest_float("x", 0, 1))
            study.tell(trial, 0.0)
    assert len(set(drawn)) == 3


def test_two_processes_do_not_share_a_study(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    with open_study(path, "s", IDENTITY, 0):
        with (
            pytest.raises(TuningError, match="another process is at work on study `s`"),
            open_study(path, "s", IDENTITY, 0),
        ):
            pass
        with open_study(path, "other", IDENTITY, 0) as other:
            assert other.trials == []


def test_a_study_of_another_job_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    with open_study(path, "s", IDENTITY, 0) as study:
        study.tell(study.ask(), 1.0)
    other = {"margin": 0.05, "task": "copy"}
    with (
        pytest.raises(TuningError, match=r"of another job \(different: margin\); name another"),
        open_study(path, "s", other, 0),
    ):
        pass
    with open_study(path, "s", IDENTITY, 0) as study:
        assert states(study) == ["COMPLETE"]


def test_a_study_that_dllmc_did_not_begin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    foreign = optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    foreign.add_trial(optuna.trial.create_trial(value=1.0, state=TrialState.COMPLETE))
    with pytest.raises(TuningError, match="is of another job"), open_study(path, "s", IDENTITY, 0):
        pass


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be taken for the head of one " * 20)
    before = path.read_bytes()
    with (
        pytest.raises(TuningError, match=r"cannot be used \(.*not a database\); name another"),
        open_study(path, "s", IDENTITY, 0),
    ):
        pass
    assert path.read_bytes() == before


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "s.sqlite3"
    with (
        pytest.raises(TuningError, match=r"cannot be written \(.*\); name another with --storage"),
        open_study(path, "s", IDENTITY, 0),
    ):
        pass


def test_a_storage_of_another_optuna_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite3"
    with open_study(path, "s", IDENTITY, 0):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.raises(TuningError, match="cannot be used"), open_study(path, "s", IDENTITY, 0):
        pass
