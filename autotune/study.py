"""The Optuna study of a job: one per weights, task, hardware, execution and margin."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from typing import TYPE_CHECKING, Any, Final

import optuna
import sqlalchemy
from optuna.trial import TrialState

from dllmc.autotune.liveness import Watch, is_here
from dllmc.autotune.storage import Storage, connect, parse_storage
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_HOLDER: Final = "holder"
# Seconds between two looks at whether another process lives, and for which two that come at once
# let each other be seen.
_LOOK: Final = 0.5
_SETTLING: Final = 0.5
# Processes that begin a study at once may each make its tables; all but one try again.
_TRIES: Final = 6


@contextlib.contextmanager
def open_study(
    storage: str | Path,
    name: str,
    identity: Mapping[str, Any],
    seed: int,
    *,
    front: bool = False,
    alone: bool = True,
) -> Iterator[optuna.Study]:
    """The study called `name`, new or resumed.

    What a dead process was evaluating is queued again.

    Args:
        storage: See `dllmc.autotune.storage`.
        name: Of the study.
        identity: What the job depends on; a study of the same name must have the same.
        seed: Of the sampler.
        front: Whether quality is a second objective, and not only a constraint.
        alone: Whether this process is the one that brings the job to its end, of which there is
            one at a time. Any number of others may work on it beside.

    Raises:
        TuningError: The storage cannot be used, holds another study of this name, or another
            process brings it to its end.
    """
    where = parse_storage(storage)
    with _quiet(), _lock(where, name) if alone else contextlib.nullcontext():
        study = _load(where, name, seed, front=front)
        known = study.user_attrs.get("identity")
        if known is None and not study.trials:
            study.set_user_attr("identity", dict(identity))
        elif known != identity:
            keys = set(identity) | set(known or {})
            different = sorted(k for k in keys if (known or {}).get(k) != identity.get(k))
            raise TuningError(
                f"study `{name}` in {where} is of another job (different: "
                f"{', '.join(different)}); name another --storage"
            )
        reap(study, Watch(study))
        try:
            yield study
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise TuningError(
                f"`storage` {where} was lost ({reason}); what was decoded is kept, give the same "
                "command again when it answers"
            ) from error


def claim(
    study: optuna.Study,
    session: str,
    watch: Watch,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Be the process that brings the job of `study` to its end, on storages without a lock.

    Where another one was at it and cannot be seen, this waits until it beats or counts as dead:
    two seconds, or half a minute.

    Args:
        study: The study.
        session: Of this process.
        watch: On the sessions of others.
        wait: Sleeps for so many seconds.

    Raises:
        TuningError: Another process does.
    """
    holder = study.user_attrs.get(_HOLDER)
    beats = study.user_attrs.get(f"alive:{holder}")
    while holder not in (None, session) and holder in watch.alive():
        if study.user_attrs.get(f"alive:{holder}") != beats or is_here(holder):
            raise _at_work(study.study_name)
        wait(_LOOK)
    study.set_user_attr(_HOLDER, session)
    # Of two that come at once the later one has it.
    wait(_SETTLING)
    if study.user_attrs.get(_HOLDER) != session:
        raise _at_work(study.study_name)


def reap(study: optuna.Study, watch: Watch) -> int:
    """Queue again what dead processes were evaluating; returns how many."""
    running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
    alive = watch.alive() if running else set()
    dead = [
        trial.number
        for trial in running
        if watch.is_orphan(trial.number, trial.user_attrs.get("session"), alive)
    ]
    return sum(requeue(study, number) for number in dead)


def requeue(study: optuna.Study, number: int) -> bool:
    """End a trial without a result and queue it again; its evidence shortens the second try.

    Returns whether it was done; not, where another process has been faster.
    """
    trial = study.get_trials(deepcopy=False)[number]
    parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    attributes = {key: trial.user_attrs[key] for key in ("preset",) if key in trial.user_attrs}
    try:
        study.tell(number, state=TrialState.FAIL)
    except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
        return False
    study.enqueue_trial(parameters, user_attrs={**attributes, "retry_of": number})
    return True


def _open(storage: Storage) -> optuna.storages.BaseStorage:
    return connect(storage)


def _load(storage: Storage, name: str, seed: int, *, front: bool) -> optuna.Study:
    path = storage.path
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(storage, error) from error
    for left in reversed(range(_TRIES)):
        try:
            study = optuna.create_study(
                storage=_open(storage),
                study_name=name,
                # Of the logarithm of the speed, and of the share of right answers that is lost.
                directions=["maximize", "minimize"] if front else ["maximize"],
                load_if_exists=True,
            )
            break
        except TuningError:
            if not left or storage.kind == "grpc":
                raise
        except Exception as error:
            if not left:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise TuningError(
                    f"`storage` {storage} cannot be used ({reason}); name another with --storage"
                ) from error
        time.sleep(0.1)
    # A sampler seeded alike would draw in a resumed study, or in another process, what it drew
    # before.
    drawn = len(study.trials) + sum(key.startswith("alive:") for key in study.user_attrs)
    study.sampler = optuna.samplers.TPESampler(
        multivariate=True, group=True, constant_liar=True, seed=seed + drawn
    )
    return study


def _unwritable(storage: Storage, error: OSError) -> TuningError:
    return TuningError(
        f"`storage` {storage} cannot be written ({error.strerror}); name another with --storage"
    )


@contextlib.contextmanager
def _lock(storage: Storage, name: str) -> Iterator[None]:
    """Hold a lock that the system releases however the process ends; servers have `claim`."""
    path = storage.path
    if os.name != "posix" or path is None:
        yield
        return
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.{name}.lock").open("w")
    except OSError as error:
        raise _unwritable(storage, error) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _at_work(f"{name}` in `{storage}") from None
        yield


def _at_work(where: str) -> TuningError:
    return TuningError(
        f"another process is at work on study `{where}`; wait for it, help it with --worker, or "
        "give another seed or --storage"
    )


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
