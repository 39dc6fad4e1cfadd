"""Where results and progress go: results to the output, all else to the error stream."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

# Columns where there is no terminal to ask.
_WIDTH = 120


def output() -> Console:
    """The console for results."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


def notes() -> Console:
    """The console for progress and remarks."""
    return Console(highlight=False, stderr=True, width=None if sys.stderr.isatty() else _WIDTH)


def say(text: str, style: str | None = None) -> None:
    """Print a line of the result as it is: no markup, no wrapping."""
    output().print(text, markup=False, soft_wrap=True, style=style)


def remark(text: str) -> None:
    """Print a line beside the result."""
    notes().print(text, markup=False, soft_wrap=True, style="dim")


def status(message: str) -> AbstractContextManager[object]:
    """A spinner with `message`, on a terminal."""
    console = notes()
    return console.status(message) if console.is_terminal else contextlib.nullcontext()


def progress() -> Progress:
    """A bar with a count, on a terminal; give tasks no total for a spinner alone."""
    console = notes()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_json(value: object) -> None:
    """Print `value` as JSON, alone on the output."""
    print(json.dumps(value, ensure_ascii=False))


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """An empty table; the columns of `right` are aligned to the right."""
    found = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        found.add_column(column, justify="right" if column in right else "left")
    return found
