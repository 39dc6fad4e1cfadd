"""What a command works on: an artifact, or a model that is compiled in memory."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllmc.cli._console import status
from dllmc.spec import ModelNotFoundError, UsageError, nearest

if TYPE_CHECKING:
    import torch

    from dllmc.models import LoadedModel
    from dllmc.runtime import Engine

# Length of a response where the model has no slots for it.
_RESPONSE = 32
_FACTORY = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_]\w*)")
DTYPES = ("float32", "bfloat16", "float16", "float64")


def is_artifact(subject: str) -> bool:
    """Whether `subject` means an artifact; if not, it means a model."""
    path = Path(subject)
    return path.suffix == ".dllm" or (path / "manifest.json").is_file()


def open_engine(
    subject: str | LoadedModel,
    *,
    backend: str | None = None,
    device: str | None = None,
    database: str | None = None,
    auxiliary: str | None = None,
) -> Engine:
    """An engine over an artifact, or over a model that is compiled in memory.

    Args:
        subject: Path of an artifact, or a model, or its name or path.
        backend: None is the artifact's own, and `eager` for a model.
        device: Where it runs; None is a CPU.
        database: Folder of the tuning database; None is the user's.
        auxiliary: The autoregressive model beside it: an artifact's path, or a model's name or
            path.

    Raises:
        DllmcError: It cannot be opened.
    """
    import dllmc

    with status("opening the model"):
        helper = None if auxiliary is None else _auxiliary(auxiliary)
        options = {"device": device or "cpu", "database": database, "auxiliary": helper}
        if isinstance(subject, str) and is_artifact(subject):
            return dllmc.load(subject, backend=backend, **options)
        model = load_model(subject) if isinstance(subject, str) else subject
        compiled = dllmc.compile(model, backend=backend or "eager")
        engine: Engine = compiled.engine(**options)
        return engine


def _auxiliary(subject: str) -> Any:
    """What an engine takes as its auxiliary model."""
    import dllmc

    if is_artifact(subject):
        return subject
    return dllmc.compile(load_model(subject), backend="eager")


def load_model(subject: str, dtype: str | None = None) -> LoadedModel:
    """A model by its name or path, or what `package.module:function` makes.

    The function takes nothing and returns a module, or a module and its spec.

    Raises:
        DllmcError: There is no such model or function, or it fails.
    """
    import dllmc

    found = _FACTORY.fullmatch(subject)
    if found is None or found["module"] == "random" or Path(subject).exists():
        return dllmc.load_model(subject, dtype=read_dtype(dtype))
    made = _call(found["module"], found["function"])
    module, spec = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if dtype is not None and hasattr(module, "to"):
        module = module.to(read_dtype(dtype))
    return dataclasses.replace(dllmc.adapt(module, spec=spec), name=subject)


def _call(module: str, function: str) -> Any:
    """Call a function of the user's, from an installed package or from the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        names = vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise ModelNotFoundError(
            f"there is no module `{error.name}` to import `{module}:{function}` from; run where "
            "it can be imported, or give a checkpoint folder's path"
        ) from error
    if not callable(names.get(function)):
        known = [name for name, value in names.items() if callable(value) and name[0] != "_"]
        raise ModelNotFoundError(
            f"`{module}` has no function `{function}`; {nearest(function, known)}"
        )
    try:
        return names[function]()
    except Exception as error:  # It is the user's code: anything.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"`{module}:{function}()` fails ({type(error).__name__}: {reason}); it must take "
            "nothing and return a module, or a module and its DenoiserSpec"
        ) from error


def read_dtype(name: str | None) -> torch.dtype | None:
    """The dtype called `name`.

    Raises:
        UsageError: There is none.
    """
    if name is None:
        return None
    import torch

    if name not in DTYPES:
        raise UsageError(f"`--dtype`={name!r} is unknown; {nearest(name, DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


DEVICE_HELP = "Where to run: cpu, or cuda."


def check_folder(option: str, path: str | None) -> None:
    """Find out before the work whether `path` of `option` can be written at all.

    Raises:
        UsageError: It stands in no folder.
    """
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise UsageError(f"`{option}`={path!r} stands in no folder that exists; make it first")


def response_length(engine: Engine) -> int:
    """Length of a response where nothing else is said."""
    slots = engine.spec.prompt_slots
    return _RESPONSE if slots is None else engine.spec.max_length - slots


def task_name(task: str | None) -> str | None:
    """The name under which records of `task` stand.

    Raises:
        TaskError: There is no such task or file.
    """
    if task is None:
        return None
    from dllmc.tasks import get_task

    return get_task(task).name
