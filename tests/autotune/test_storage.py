"""What every storage of trials does, and what is wrong with one that does not answer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState
from servers import free_port, has_postgresql, postgresql, proxy

from dllmc.autotune import storage
from dllmc.autotune.liveness import Session
from dllmc.autotune.storage import parse_storage
from dllmc.autotune.study import open_study, requeue
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IDENTITY = {"margin": 0.02, "task": "copy"}
needs_postgresql = pytest.mark.skipif(
    not has_postgresql(), reason="needs PostgreSQL: apt-get install postgresql"
)


@pytest.fixture(
    scope="module",
    params=[
        "sqlite",
        "journal",
        "grpc",
        pytest.param("postgresql", marks=needs_postgresql),
    ],
)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("storage")
    with contextlib.ExitStack() as stack:
        yield {
            "sqlite": lambda: f"sqlite:///{folder}/s.sqlite3",
            "journal": lambda: f"journal://{folder}/journal.log",
            "grpc": lambda: stack.enter_context(proxy(f"{folder}/behind.sqlite3")),
            "postgresql": lambda: stack.enter_context(postgresql()),
        }[request.param]()


def test_a_study_goes_on_where_it_stopped(url: str) -> None:
    with open_study(url, "resumed", IDENTITY, 0) as study:
        study.tell(study.ask(), 1.5)
    with open_study(url, "resumed", IDENTITY, 0) as study:
        assert [trial.value for trial in study.trials] == [1.5]


def test_constraints_and_attributes_come_back(url: str) -> None:
    with open_study(url, "kept", IDENTITY, 0) as study:
        trial = study.ask()
        trial.set_constraint("quality", 0.5)
        trial.set_user_attr("config", "{}")
        study.tell(trial.number, state=TrialState.PRUNED)
    with open_study(url, "kept", IDENTITY, 0) as study:
        [found] = study.trials
        assert found.constraints == {"quality": 0.5}
        assert found.user_attrs["config"] == "{}"


def test_a_running_trial_of_nobody_is_queued_once(url: str) -> None:
    with open_study(url, "orphan", IDENTITY, 0) as study:
        study.ask().suggest_float("x", 0, 1)
    for _ in range(2):
        with open_study(url, "orphan", IDENTITY, 0) as study:
            assert [t.state.name for t in study.trials] == ["FAIL", "WAITING"]
    with open_study(url, "orphan", IDENTITY, 0) as study:
        assert study.trials[1].user_attrs == {"retry_of": 0}


def test_a_trial_is_queued_again_by_one_process_only(url: str) -> None:
    with open_study(url, "raced", IDENTITY, 0) as study:
        study.ask().suggest_float("x", 0, 1)
        other = optuna.load_study(study_name="raced", storage=study._storage)
        assert [requeue(study, 0), requeue(other, 0)] == [True, False]
        assert [t.state.name for t in study.trials] == ["FAIL", "WAITING"]


def test_a_study_of_another_job_is_refused(url: str) -> None:
    with open_study(url, "taken", IDENTITY, 0) as study:
        study.tell(study.ask(), 1.0)
    with (
        pytest.raises(TuningError, match=r"of another job \(different: margin\)"),
        open_study(url, "taken", IDENTITY | {"margin": 0.05}, 0),
    ):
        pass


@pytest.mark.parametrize("url", ["redis://x", "mysql://host/db", "grpc://host", "ftp://a/b"])
def test_other_storages_are_refused_by_name(url: str) -> None:
    with pytest.raises(TuningError, match=f"`storage`='{url}' is not supported; give the path"):
        parse_storage(url)


@pytest.mark.parametrize("form", ["postgresql://me:secret@127.0.0.1:{}/db", "grpc://localhost:{}"])
def test_a_server_that_does_not_answer_is_named_without_its_password(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PATIENCE", 1)
    url = form.format(free_port())
    with (
        pytest.raises(TuningError, match=r"cannot be used \(.*name another with") as caught,
        open_study(url, "s", IDENTITY, 0),
    ):
        pass
    assert url.rpartition("@")[2].removeprefix("grpc://") in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("a.sqlite3", "sqlite", "a.sqlite3"),
        ("sqlite:////b/a.sqlite3", "sqlite", "/b/a.sqlite3"),
        ("journal:///b/c.log", "journal", "/b/c.log"),
        ("postgres://u@h/d", "postgresql", None),
    ],
)
def test_a_storage_is_told_by_its_form(text: str, kind: str, path: str | None) -> None:
    found = parse_storage(text)
    assert found.kind == kind
    assert (None if found.path is None else str(found.path)) == path


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(TuningError, match="cannot be written"),
        open_study(f"journal://{tmp_path}/file/j.log", "s", IDENTITY, 0),
    ):
        pass


def lose_a_server() -> None:
    with contextlib.ExitStack() as server:
        url = server.enter_context(postgresql())
        with open_study(url, "s", IDENTITY, 0) as study, Session(study):
            study.ask()
            server.close()
            study.ask()


@needs_postgresql
def test_a_server_that_is_lost_under_way_is_named() -> None:
    with pytest.raises(TuningError, match=r"was lost \(.*give the same command again"):
        lose_a_server()
