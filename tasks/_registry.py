"""Tasks by name, found by a scan of this package: a new task is one new file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from pathlib import Path

import dllmc.tasks
from dllmc.spec import TaskError, nearest
from dllmc.tasks._base import GeneratorTask, Task
from dllmc.tasks.jsonl import JsonlTask


def task_names() -> tuple[str, ...]:
    """Names of the built-in tasks, in alphabetical order."""
    return tuple(_classes())


def generator_tasks() -> list[GeneratorTask]:
    """Every built-in task, in alphabetical order of their names."""
    return [task() for task in _classes().values()]


def get_task(name: str) -> Task:
    """A built-in task by its name, or the task of a JSONL file by its path.

    A built-in name wins over a file of the same name; `./name` is the file.

    Raises:
        TaskError: There is no such task or file, or the file has a bad line.
    """
    if name in _classes():
        return _classes()[name]()
    path = Path(name)
    if path.suffix == ".jsonl" or path.is_file():
        if path.name in _classes():
            # Records are found by task name; the file's would pass for the built-in task's.
            raise TaskError(
                f"{path} has the name of a built-in task; rename it, e.g. to {path.name}.jsonl"
            )
        return JsonlTask(path)
    raise TaskError(
        f"there is no task `{name}`; {nearest(name, _classes())}, or the path of a .jsonl file"
    )


@cache
def _classes() -> dict[str, type[GeneratorTask]]:
    found: dict[str, type[GeneratorTask]] = {}
    for module in pkgutil.iter_modules(dllmc.tasks.__path__):
        if module.name.startswith("_"):
            continue
        qualified = f"{dllmc.tasks.__name__}.{module.name}"
        for value in vars(importlib.import_module(qualified)).values():
            if not (inspect.isclass(value) and issubclass(value, GeneratorTask)):
                continue
            if value.__module__ != qualified:
                continue
            if value.name in found:
                raise TaskError(f"two tasks are called `{value.name}`; rename that of {qualified}")
            found[value.name] = value
    return dict(sorted(found.items()))
