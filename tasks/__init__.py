"""Tasks: what gives a decoding configuration its quality.

A built-in task is one file of this package with a `GeneratorTask`; a user's task is a JSONL file.
"""

from dllmc.tasks._base import (
    SPLITS,
    VALID_ANSWER,
    GeneratorTask,
    Kind,
    Sample,
    Split,
    Task,
    split_of,
)
from dllmc.tasks._registry import generator_tasks, get_task, task_names
from dllmc.tasks.jsonl import JsonlTask

__all__ = [
    "SPLITS",
    "VALID_ANSWER",
    "GeneratorTask",
    "JsonlTask",
    "Kind",
    "Sample",
    "Split",
    "Task",
    "generator_tasks",
    "get_task",
    "split_of",
    "task_names",
]
