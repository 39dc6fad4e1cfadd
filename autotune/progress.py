"""What a job tells while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

Part = Literal["preflight", "search", "timing", "confirmation", "floors", "retargeting"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a job stands.

    Attributes:
        part: What it is doing.
        done: Units done: prompts, trials, rounds of timing.
        total: Units in all, or None where time decides.
        spent: Seconds, those of earlier runs of the job included.
        budget: Seconds in all, or None.
        best: Highest speed so far as a multiple of `SPEED_BASELINE`, quality permitting.
        workers: Processes at work on the job.
        message: A line to keep, if there is one.
    """

    part: Part
    done: int
    total: int | None
    spent: float
    budget: float | None
    best: float | None = None
    workers: int = 1
    message: str | None = None


Callback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tell nobody."""
    del progress


@contextlib.contextmanager
def rich_progress(console: Console | None = None) -> Iterator[Callback]:
    """A progress bar per part, and messages as lines above them.

    Args:
        console: Where to; by default standard error.
    """
    from rich import progress as bars
    from rich.console import Console as NewConsole

    shown = bars.Progress(
        bars.TextColumn("{task.description:<12}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.fields[note]}"),
        console=console or NewConsole(stderr=True),
    )
    tasks: dict[Part, bars.TaskID] = {}

    def show(progress: Progress) -> None:
        if progress.message:
            shown.console.print(progress.message, markup=False, highlight=False)
        if progress.part not in tasks:
            tasks[progress.part] = shown.add_task(progress.part, note="")
        note = "" if progress.best is None else f"best {progress.best:.2f}x"
        if progress.workers > 1:
            note += f" {progress.workers} workers"
        if progress.budget is not None:
            note += f" {max(0.0, progress.budget - progress.spent):.0f} s left"
        shown.update(
            tasks[progress.part], completed=progress.done, total=progress.total, note=note.strip()
        )

    with shown:
        yield show
