"""Several processes on one job, some of them killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from planted_world import SPACE, PlantedEngine
from servers import has_postgresql, postgresql
from tuning_process import BATCH, TRIALS

from dllmc.autotune import help_tune, liveness, tune
from dllmc.autotune.liveness import Session, Watch
from dllmc.autotune.storage import connect, parse_storage
from dllmc.autotune.study import claim, reap
from dllmc.spec import TuningError
from dllmc.tuning_db import EvidenceStore, Store, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).with_name("tuning_process.py")


def start(database: Path, log: Path, storage: str, role: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(database), str(log), storage]
    return subprocess.Popen(
        [*command, *([role] if role else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def only_study(opened: optuna.storages.BaseStorage) -> optuna.Study:
    [summary] = optuna.get_all_study_summaries(opened)
    return optuna.load_study(study_name=summary.study_name, storage=opened)


def running(opened: optuna.storages.BaseStorage) -> list[str]:
    """The sessions that are evaluating a trial now."""
    try:
        trials = only_study(opened).get_trials(deepcopy=False)
    except ValueError:
        return []
    return [
        str(t.user_attrs["session"])
        for t in trials
        if t.state.name == "RUNNING" and "session" in t.user_attrs
    ]


def check_a_job_with_two_workers_killed(tmp_path: Path, storage: str) -> None:
    database, workers = tmp_path / "db", 4
    helpers = [start(database, tmp_path / f"log{i}", storage, "worker") for i in range(workers)]
    by_pid = {process.pid: process for process in helpers}
    killed: list[str] = []
    # Once: every storage that is opened has connections of its own, and a server has only so many.
    opened = connect(parse_storage(storage))
    until = time.monotonic() + 60
    while len(killed) < 2 and time.monotonic() < until:
        for session in running(opened):
            process = by_pid.get(int(session.split("/")[-3]))
            if process is None or session in killed or len(killed) == 2:
                continue
            # Its trial may have ended since: only what is stopped stays as it is seen.
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            if session not in running(opened):
                process.send_signal(signal.SIGCONT)
                continue
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed.append(session)
        time.sleep(0.01)
    assert len(killed) == 2
    coordinator = start(database, tmp_path / "log", storage)
    out, err = coordinator.communicate(timeout=120)
    assert coordinator.returncode == 0, err
    for process in helpers:
        _, error = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), error
    report = json.loads(out)
    assert report["status"] == "confirmed"

    trials = only_study(opened).trials
    states = [trial.state.name for trial in trials]
    assert states.count("RUNNING") == 0
    # Those that were under way when the last one was counted may be beyond.
    assert TRIALS <= states.count("COMPLETE") + states.count("PRUNED") <= TRIALS + workers
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    retries = [t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs]
    assert sorted(retries) == [trial.number for trial in failed]
    assert set(killed) <= {trial.user_attrs.get("session") for trial in failed}
    assert max(trial.user_attrs.get("prompts", 0) for trial in trials) == 256

    store = Store(database)
    assert verify(store) == []
    assert [record.id for record in store.records()] == [report["record"]]
    # What was decoded is known, each prompt once and as the world says.
    engine = PlantedEngine()
    for found in EvidenceStore(store).every_quality(engine.weights_sha256):
        assert len(found.outcomes) >= BATCH


@pytest.mark.slow
def test_workers_share_a_file_and_two_of_them_are_killed(tmp_path: Path) -> None:
    check_a_job_with_two_workers_killed(tmp_path, f"{tmp_path}/studies.sqlite3")


@pytest.mark.slow
def test_workers_share_a_journal_and_two_of_them_are_killed(tmp_path: Path) -> None:
    check_a_job_with_two_workers_killed(tmp_path, f"journal://{tmp_path}/journal.log")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    if not has_postgresql():
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with postgresql() as url:
        yield url


def test_workers_share_postgresql_and_two_of_them_are_killed(tmp_path: Path, server: str) -> None:
    check_a_job_with_two_workers_killed(tmp_path, server)


def test_a_worker_evaluates_what_the_job_then_knows(tmp_path: Path) -> None:
    engine = PlantedEngine()
    options = {
        "budget": None,
        "batch": 64,
        "db": tmp_path,
        "progress": None,
        "space": SPACE,
        "clock": engine.clock,
    }
    helped = help_tune(engine, "copy", trials=6, **options)
    assert helped.trials == 6
    assert "evaluated 6 configurations" in str(helped)
    report = tune(engine, "copy", trials=6, **options)
    assert sum(report.trials.values()) == 6
    assert report.study == helped.study


def test_a_worker_leaves_when_the_search_is_over_and_may_come_again(tmp_path: Path) -> None:
    engine = PlantedEngine()
    options: dict[str, Any] = {
        "budget": None,
        "batch": 64,
        "db": tmp_path,
        "progress": None,
        "space": SPACE,
        "clock": engine.clock,
    }
    tune(engine, "copy", trials=2, **options)
    assert help_tune(engine, "copy", trials=4, **options).trials == 0
    report = tune(engine, "copy", trials=4, **options)
    assert sum(report.trials.values()) == 4


def test_progress_counts_the_processes_at_work(tmp_path: Path) -> None:
    engine, told = PlantedEngine(), []
    tune(
        engine,
        "copy",
        budget=None,
        trials=1,
        batch=64,
        db=tmp_path,
        progress=told.append,
        space=SPACE,
        clock=engine.clock,
    )
    assert {progress.workers for progress in told} == {1}


def study_on(tmp_path: Path) -> optuna.Study:
    return optuna.create_study(storage=connect(parse_storage(tmp_path / "s.sqlite3")))


def test_a_session_is_alive_until_it_ends(tmp_path: Path) -> None:
    study = study_on(tmp_path)
    watch = Watch(study)
    with Session(study) as session:
        assert watch.alive() == {session.id}
    assert watch.alive() == set()


def test_a_session_elsewhere_is_dead_when_it_no_longer_beats(tmp_path: Path) -> None:
    study, now = study_on(tmp_path), [0.0]
    watch = Watch(study, grace=30, clock=lambda: now[0])
    name = "elsewhere/17/99/abc"
    for beat in range(3):
        study.set_user_attr(f"alive:{name}", beat)
        now[0] += 29
        assert watch.alive() == {name}
    now[0] += 29
    assert watch.alive() == {name}
    now[0] += 2
    assert watch.alive() == set()


def test_a_clock_that_is_set_back_elsewhere_kills_nobody(tmp_path: Path) -> None:
    study = study_on(tmp_path)
    watch = Watch(study, grace=30, clock=lambda: 5.0)
    study.set_user_attr("alive:elsewhere/1/1/a", 7)
    assert watch.alive()
    study.set_user_attr("alive:elsewhere/1/1/a", 8)
    assert watch.alive()


def test_the_trial_of_a_live_session_is_left_to_it(tmp_path: Path) -> None:
    study = study_on(tmp_path)
    with Session(study) as session:
        study.ask().set_user_attr("session", session.id)
        assert reap(study, Watch(study)) == 0
    assert reap(study, Watch(study)) == 1


def test_a_trial_that_was_just_taken_elsewhere_is_left_alone(tmp_path: Path) -> None:
    study, now = study_on(tmp_path), [0.0]
    study.set_user_attr("alive:elsewhere/1/1/a", 1)
    study.ask()
    watch = Watch(study, grace=30, clock=lambda: now[0])
    assert reap(study, watch) == 0
    now[0] = 31.0
    assert reap(study, watch) == 1


def test_one_of_two_that_end_a_job_is_sent_away(server: str) -> None:
    opened = connect(parse_storage(server))
    study = optuna.create_study(study_name="claimed", storage=opened)
    with Session(study) as one, Session(study) as other:
        claim(study, one.id, Watch(study))
        with pytest.raises(TuningError, match=r"another process is at work on study `claimed`"):
            claim(study, other.id, Watch(study))
        claim(study, one.id, Watch(study))
    with Session(study) as later:
        claim(study, later.id, Watch(study))


def test_of_two_that_come_at_once_one_is_left(tmp_path: Path) -> None:
    study = study_on(tmp_path)
    with Session(study) as one, Session(study) as other:
        with pytest.raises(TuningError, match="another process"):
            claim(
                study,
                one.id,
                Watch(study),
                wait=lambda _: study.set_user_attr("holder", other.id),
            )
        claim(study, other.id, Watch(study), wait=lambda _: None)


def test_one_elsewhere_is_waited_for_until_it_beats_or_counts_as_dead(tmp_path: Path) -> None:
    study, now = study_on(tmp_path), [0.0]
    gone = "elsewhere/12/34/ab"
    study.set_user_attr("holder", gone)
    study.set_user_attr(f"alive:{gone}", 7)

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    def beat(seconds: float) -> None:
        pass_time(seconds)
        study.set_user_attr(f"alive:{gone}", 8)

    with Session(study) as mine:
        with pytest.raises(TuningError, match="another process"):
            claim(study, mine.id, Watch(study, clock=lambda: now[0]), wait=beat)
        claim(study, mine.id, Watch(study, clock=lambda: now[0]), wait=pass_time)
    assert 30 <= now[0] < 33


def test_a_beat_is_written_while_the_session_lasts(tmp_path: Path) -> None:
    study = study_on(tmp_path)
    with Session(study, beat=0.01) as session:
        until = time.monotonic() + 10
        while study.user_attrs[f"alive:{session.id}"] < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert study.user_attrs[f"alive:{session.id}"] >= 3
    assert study.user_attrs[f"alive:{session.id}"] is None


def test_a_process_that_ended_does_not_live_here() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    assert liveness._started(process.pid) == ""
