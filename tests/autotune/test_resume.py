from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
import tuning_process
from tuning_process import trials_of

from dllmc.tuning_db import Store, sample_id, verify


class Running:
    """The job in a process of its own, forked from one that has imported everything."""

    _forked = multiprocessing.get_context("forkserver")
    _forked.set_forkserver_preload(["tuning_process"])

    def __init__(self, database: Path, log: Path, role: str) -> None:
        # What it imports beforehand it looks for where Python does, and not where pytest does.
        path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path))):
            forkserver.ensure_running()
        self.report = log.with_suffix(".report")
        given = (str(self.report), str(database), str(log), "", role)
        self._process = self._forked.Process(target=tuning_process.into, args=given)
        self._process.start()

    @property
    def ended(self) -> bool:
        return not self._process.is_alive()

    def kill(self) -> bool:
        """Whether it was still running."""
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL

    def wait(self) -> dict[str, Any]:
        """The report, rounded to what adding up times leaves exact."""
        self._process.join()
        assert self._process.exitcode == 0
        text = self.report.read_text(encoding="utf-8")
        return dict(json.loads(text, parse_float=lambda number: round(float(number), 9)))


def lines(log: Path) -> list[Any]:
    if not log.exists():
        return []
    text = log.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def killed_after(database: Path, log: Path, batches: int, delay: float, role: str) -> bool:
    """Whether the job was killed, `batches` batches after its start, before it was finished."""
    before = len(lines(log))
    running = Running(database, log, role)
    while len(lines(log)) < before + batches and not running.ended:
        time.sleep(0.002)
    time.sleep(delay)
    return running.kill()


def finished(database: Path, log: Path, role: str) -> dict[str, Any]:
    return Running(database, log, role).wait()


def evidence(database: Path) -> dict[tuple[str, str], list[Any]]:
    """Outcomes by configuration and prompt."""
    found = {}
    for path in database.glob("v2/evidence/quality/*/*.json"):
        value = json.loads(path.read_text(encoding="utf-8"))
        for sample, outcome in value["outcomes"].items():
            found[json.dumps(value["key"]["config"], sort_keys=True), sample] = outcome
    return found


def decoded(log: list[Any], interrupted: set[int]) -> set[tuple[str, str]]:
    """What was decoded before the last batch began, as keys of `evidence`.

    Args:
        log: Of all runs.
        interrupted: Lines of it whose batch a kill may have ended.
    """
    return {
        (
            json.dumps(json.loads(config), sort_keys=True),
            sample_id(prompt, prompt.removeprefix("copy: "), "exact"),
        )
        for number, (config, prompts) in enumerate(log[:-1])
        for prompt in prompts
        if number not in interrupted
    }


def check_nothing_is_lost(
    database: Path, log: Path, known: dict[Any, Any], interrupted: set[int]
) -> dict[Any, Any]:
    now = evidence(database)
    assert {key: now.get(key) for key in known} == known
    assert decoded(lines(log), interrupted) <= now.keys()
    return now


def check_nothing_counts_twice(database: Path, trials: int) -> None:
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{database / 'studies.sqlite3'}")
    states = [trial.state.name for trial in study.trials]
    assert states.count("RUNNING") == 0
    assert states.count("COMPLETE") + states.count("PRUNED") == trials
    # 256 tune prompts: a batch that counted twice would make it more.
    assert max(trial.user_attrs.get("prompts", 0) for trial in study.trials) == 256


def run_and_kill(
    tmp_path: Path, moments: list[tuple[int, float]], role: str = "", late: int = 0
) -> dict[str, Any]:
    """The report of a job that was killed at `moments`, of which `late` may be after its end."""
    database, log = tmp_path / "db", tmp_path / "log"
    known: dict[Any, Any] = {}
    interrupted: set[int] = set()
    kills = 0
    for batches, delay in moments:
        kills += killed_after(database, log, batches, delay, role)
        known = check_nothing_is_lost(database, log, known, interrupted)
        interrupted.add(len(lines(log)) - 1)
    assert kills >= len(moments) - late
    report = finished(database, log, role)
    check_nothing_is_lost(database, log, known, interrupted)
    check_nothing_counts_twice(database, trials_of(role))
    store = Store(database)
    assert verify(store) == []
    published = {report["record"], *(row["record"] for row in report["front"])} - {None}
    assert {record.id for record in store.records()} == published
    return report


def test_a_killed_job_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    report = run_and_kill(tmp_path, [(12, 0.003)])
    assert report["status"] == "confirmed"


@pytest.mark.slow
def test_a_killed_search_for_a_front_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path,
) -> None:
    # In the search, when the front is timed, and when it is judged.
    report = run_and_kill(tmp_path, [(30, 0.003), (60, 0.001), (60, 0.002)], role="front", late=1)
    assert report["front"]


@pytest.mark.slow
def test_a_job_killed_three_times_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    # In the preflight, in the search, and later.
    report = run_and_kill(tmp_path, [(4, 0.0), (12, 0.003), (30, 0.001)])
    assert report["status"] == "confirmed"


@pytest.mark.slow
def test_a_job_killed_at_random_moments_loses_nothing_and_counts_nothing_twice(
    tmp_path: Path,
) -> None:
    rng = random.Random(0)
    for attempt in range(10):
        moments = [(rng.randint(1, 30), rng.uniform(0, 0.03)) for _ in range(5)]
        folder = tmp_path / str(attempt)
        folder.mkdir()
        run_and_kill(folder, moments)


def what_was_found(report: dict[str, Any]) -> dict[str, Any]:
    """All of a report but where it is, how long the job took, and of which batches it is a mean.

    Where a kill comes between the answers to a batch and its timing, the batch has no timing: its
    answers are known, and it is not decoded again. Batches differ in tokens per second.
    """
    other = ("path", "page", "storage", "spent")
    found = {name: value for name, value in report.items() if name not in other}
    for row in found["rows"]:
        del row["tokens_per_second"]
    return found


@pytest.mark.slow
def test_a_job_killed_at_random_moments_reports_what_one_never_killed_does(tmp_path: Path) -> None:
    expected = what_was_found(run_and_kill(tmp_path, [], role="exact"))
    assert expected["status"] == "confirmed"
    rng = random.Random(1)
    for attempt in range(5):
        moments = [(rng.randint(1, 20), rng.uniform(0, 0.01)) for _ in range(5)]
        folder = tmp_path / str(attempt)
        folder.mkdir()
        report = run_and_kill(folder, moments, role="exact")
        assert what_was_found(report) == expected
