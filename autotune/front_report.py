"""The front of a job, as its report shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dllmc.autotune.evaluator import as_json
from dllmc.autotune.job import describe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

    from dllmc.autotune.judging import Confirmation
    from dllmc.autotune.publish import Published
    from dllmc.policies.config import DecodingConfig


@dataclass(frozen=True, slots=True)
class FrontRow:
    """A configuration that none beat in both speed and quality on the tune prompts.

    Attributes:
        config: The configuration.
        ratio: Speed as a multiple of `SPEED_BASELINE`, timed after its selection.
        ratio_interval: 95 % interval of `ratio`.
        n: Held-out prompts that it was judged on.
        difference: Share of right answers on these, its own minus the reference's.
        difference_interval: Interval of `difference`; those of the whole front hold together
            with 95 % confidence.
        lower_bound: One-sided lower bound of `difference`; likewise.
        keeps_margin: Whether the bound is above the margin's loss.
        dominated: Whether on these prompts another was at least as fast and as good, and not
            equal.
        reason: Why the margin is not known to be kept; None if it is.
        record: Id of its record; None where it has none.
        path: File of its record.
    """

    config: DecodingConfig
    ratio: float
    ratio_interval: tuple[float, float]
    n: int
    difference: float
    difference_interval: tuple[float, float]
    lower_bound: float
    keeps_margin: bool
    dominated: bool
    reason: str | None
    record: str | None
    path: Path | None

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        path = None if self.path is None else str(self.path)
        words = describe(self.config)
        return {**asdict(self), "config": as_json(self.config), "path": path, "words": words}


def front_rows(done: Confirmation, published: Sequence[Published]) -> list[FrontRow]:
    """The members of a front, slowest first; none where one configuration is picked."""
    records = {
        passed.candidate.config.canonical_json(): item
        for passed, item in zip(done.published, published, strict=False)
    }
    found = []
    for member in done.front:
        verdict, ratio = member.verdict, member.timed.ratio
        item = records.get(verdict.config.canonical_json())
        found.append(
            FrontRow(
                config=verdict.config,
                ratio=ratio.median,
                ratio_interval=(ratio.low, ratio.high),
                n=verdict.n,
                difference=verdict.difference,
                difference_interval=member.interval,
                lower_bound=verdict.lower_bound,
                keeps_margin=verdict.passed,
                dominated=member.dominated,
                reason=verdict.reason,
                record=None if item is None else item.record.id,
                path=None if item is None else item.path,
            )
        )
    return found


def front_table(rows: Sequence[FrontRow], margin: float) -> Table:
    """The front for a rich console."""
    from rich.table import Table

    title = f"front on {rows[0].n} held-out prompts, intervals of 95 % for all at once"
    table = Table("speed", "difference", f"keeps {margin:g}", "decoding", title=title)
    for column in table.columns[:2]:
        column.justify = "right"
    for row in rows:
        (slow, fast), (low, high) = row.ratio_interval, row.difference_interval
        words = describe(row.config) + (" (dominated here)" if row.dominated else "")
        table.add_row(
            f"{row.ratio:.2f}x ({slow:.2f}-{fast:.2f})",
            f"{row.difference:+.1%} ({low:+.1%} to {high:+.1%})",
            "yes" if row.keeps_margin else "not surely",
            words,
        )
    return table
