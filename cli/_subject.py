"""What a command works on: an artifact, or a model that is compiled in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dllmc.cli._console import status

if TYPE_CHECKING:
    import torch

    from dllmc.models import LoadedModel
    from dllmc.runtime import Engine

# Length of a response where the model has no slots for it.
_RESPONSE = 32
DTYPES = ("float32", "bfloat16", "float16", "float64")


def is_artifact(subject: str) -> bool:
    """Whether `subject` means an artifact; if not, it means a model."""
    path = Path(subject)
    return path.suffix == ".dllm" or (path / "manifest.json").is_file()


def open_engine(
    subject: str | LoadedModel, *, backend: str | None = None, database: str | None = None
) -> Engine:
    """An engine over an artifact, or over a model that is compiled in memory.

    Args:
        subject: Path of an artifact, or a model, or its name or path.
        backend: None is the artifact's own, and `eager` for a model.
        database: Folder of the tuning database; None is the user's.

    Raises:
        DllmcError: It cannot be opened.
    """
    import dllmc

    with status("opening the model"):
        if isinstance(subject, str) and is_artifact(subject):
            return dllmc.load(subject, backend=backend, database=database)
        compiled = dllmc.compile(subject, backend=backend or "eager")
        engine: Engine = compiled.engine(database=database)
        return engine


def read_dtype(name: str | None) -> torch.dtype | None:
    """The dtype called `name`.

    Raises:
        UsageError: There is none.
    """
    if name is None:
        return None
    import torch

    from dllmc.spec import UsageError, nearest

    if name not in DTYPES:
        raise UsageError(f"`--dtype`={name!r} is unknown; {nearest(name, DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


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
