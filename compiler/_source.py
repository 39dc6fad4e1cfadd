"""Where in the user's files something happened."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.fx.proxy import TracerBase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from torch.fx import Node

_TORCH, _OURS = str(Path(torch.__file__).parent), str(Path(__file__).resolve().parent)
_FILTER = "_filter_traceback_frames"
_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


@contextlib.contextmanager
def recording_lines() -> Iterator[None]:
    """Let torch.export record with each node all lines of the user's that led to it.

    By itself it keeps those in functions called `forward` only.
    """
    original = getattr(TracerBase, _FILTER, None)
    if original is None:
        yield  # Another version of torch: what it records is what there is.
        return

    def keep(tracer: TracerBase, stack: traceback.StackSummary) -> traceback.StackSummary:
        ours = [index for index, frame in enumerate(stack) if _is_ours(frame.filename)]
        inner = stack[ours[-1] + 1 :] if ours else stack
        users = [frame for frame in inner if is_users(frame.filename)]
        if not users:
            fallback: traceback.StackSummary = original(tracer, stack)
            return fallback
        return traceback.StackSummary.from_list(users)

    setattr(TracerBase, _FILTER, keep)
    try:
        yield
    finally:
        setattr(TracerBase, _FILTER, original)


def place_of_node(node: Node) -> str:
    """` at FILE:LINE` of the innermost line that the user wrote, or nothing."""
    lines = _LINE.findall(str(node.meta.get("stack_trace", "")))
    return next((f" at {file}:{line}" for file, line in reversed(lines) if is_users(file)), "")


def place_of_error(error: BaseException) -> str:
    """` at FILE:LINE` of the user's innermost line that `error` passed on its way here."""
    frames = traceback.extract_tb(error.__traceback__)
    users = (frame for frame in reversed(frames) if is_users(frame.filename))
    return next((f" at {frame.filename}:{frame.lineno}" for frame in users), "")


def place_of_caller() -> str:
    """` at FILE:LINE` of the user's line that runs now, inside a call of ours, or nothing."""
    frame: FrameType | None = sys._getframe(1)
    own_line = True
    while frame is not None:
        file = frame.f_code.co_filename
        if is_users(file):
            return f" at {file}:{frame.f_lineno}"
        if _is_ours(file) and not own_line:
            return ""
        own_line = own_line and _is_ours(file)
        frame = frame.f_back
    return ""


@functools.cache
def _is_ours(file: str) -> bool:
    return str(Path(file).resolve()).startswith(_OURS)


def is_users(file: str) -> bool:
    return not file.startswith((_TORCH, "<")) and not _is_ours(file)
