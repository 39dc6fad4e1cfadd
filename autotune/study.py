"""The Optuna study of a job: one per weights, task, hardware, execution and margin."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy
from optuna.trial import TrialState

from dllmc.spec import TuningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SQLITE = "sqlite:///"


def storage_path(storage: str | Path) -> Path:
    """The file of a storage given as path or as `sqlite:///` URL.

    Raises:
        TuningError: It is a URL of another kind.
    """
    text = str(storage)
    if text.startswith(_SQLITE):
        return Path(text.removeprefix(_SQLITE))
    if "://" in text:
        raise TuningError(
            f"`storage`={text!r} is not supported; give the path of an SQLite file or a "
            f"{_SQLITE} URL"
        )
    return Path(text).expanduser()


@contextlib.contextmanager
def open_study(
    storage: str | Path, name: str, identity: Mapping[str, Any], seed: int
) -> Iterator[optuna.Study]:
    """The study called `name`, new or resumed, for this process alone.

    What a dead process was evaluating is queued again.

    Args:
        storage: Path or URL of an SQLite file.
        name: Of the study.
        identity: What the job depends on; a study of the same name must have the same.
        seed: Of the sampler.

    Raises:
        TuningError: The storage cannot be used, holds another study of this name, or another
            process is at work on it.
    """
    path = storage_path(storage)
    with _quiet(), _alone(path, name):
        try:
            study = _load(path, name, seed)
        except (RuntimeError, sqlalchemy.exc.SQLAlchemyError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise TuningError(
                f"`storage` {path} cannot be used ({reason}); name another with --storage"
            ) from error
        known = study.user_attrs.get("identity")
        if known is None and not study.trials:
            study.set_user_attr("identity", dict(identity))
        elif known != identity:
            keys = set(identity) | set(known or {})
            different = sorted(k for k in keys if (known or {}).get(k) != identity.get(k))
            raise TuningError(
                f"study `{name}` in {path} is of another job (different: {', '.join(different)}); "
                "name another --storage"
            )
        for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            requeue(study, trial.number)
        yield study


def _open(path: Path) -> optuna.storages.BaseStorage:
    return optuna.storages.RDBStorage(
        f"{_SQLITE}{path}", engine_kwargs={"connect_args": {"factory": _Connection}}
    )


def _load(path: Path, name: str, seed: int) -> optuna.Study:
    study = optuna.create_study(
        storage=_open(path), study_name=name, direction="maximize", load_if_exists=True
    )
    # A sampler seeded alike would draw in a resumed study what it drew in the first run.
    study.sampler = optuna.samplers.TPESampler(
        multivariate=True, group=True, constant_liar=True, seed=seed + len(study.trials)
    )
    return study


class _Connection(sqlite3.Connection):
    """Without a synchronised file per transaction: 30 trials take 2.2 s instead of 6.6 s.

    What a killed process had committed is kept; a loss of power may cost the last trials, but
    none of their evidence.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")


def requeue(study: optuna.Study, number: int) -> None:
    """End a trial without a result and queue it again; its evidence shortens the second try."""
    trial = study.get_trials(deepcopy=False)[number]
    parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    attributes = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
    study.tell(number, state=TrialState.FAIL)
    study.enqueue_trial(parameters, user_attrs=attributes)


@contextlib.contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    """Hold a lock that the system releases however the process ends."""
    if os.name != "posix":
        yield
        return
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.{name}.lock").open("w")
    except OSError as error:
        raise TuningError(
            f"`storage` {path} cannot be written ({error.strerror}); name another with --storage"
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TuningError(
                f"another process is at work on study `{name}` in {path}; wait for it, or give "
                "another seed or --storage"
            ) from None
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's line per trial and its warnings about experimental arguments."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
