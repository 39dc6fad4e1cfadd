"""Results of the policy benchmark as rows, and which of them nothing beats."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _policy_runs import Measured, ratios

from dllmc.policies.published import STRATEGIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Ratios nearer than this are the same: the baseline beside itself varies by as much.
SAME = 1.05
NUMBERS = {strategy.name: number for number, strategy in enumerate(STRATEGIES, 1)}


@dataclass(frozen=True)
class Row:
    """One strategy on one task, or its mean over all tasks.

    Attributes:
        strategy: Its name.
        tuned: Whether its knobs were tuned.
        task: Or `all`.
        exact: Share of right answers.
        nfe: Evaluations per prompt.
        tpf: Response tokens per evaluation.
        rate: Response tokens per second.
        ratio: Times the baseline's tokens per second.
        quartiles: Of that, over batches; over tasks where it is a mean.
        config: How it decoded; of a mean nothing.
        kept: Whether tuning found what is right as often as one token per evaluation.
    """

    strategy: str
    tuned: bool
    task: str
    exact: float
    nfe: float
    tpf: float
    rate: float
    ratio: float
    quartiles: tuple[float, float]
    config: Mapping[str, Any] | None = None
    kept: bool = True

    @property
    def label(self) -> str:
        return f"{NUMBERS[self.strategy]}{'t' if self.tuned else ''}"


def rows_of(entries: Mapping[str, Any]) -> list[Row]:
    """What was measured, in the order of the strategies; published defaults before tuned."""
    found = []
    for name, entry in entries.items():
        way, _, rest = name.partition("/")
        strategy, _, task = rest.rpartition("/")
        if way in ("published", "tuned") and strategy in NUMBERS:
            found.append(_row(strategy, way == "tuned", task, entry))
    return sorted(found, key=lambda row: (NUMBERS[row.strategy], row.tuned, row.task))


def _row(strategy: str, tuned: bool, task: str, entry: Mapping[str, Any]) -> Row:
    measured, baseline = (Measured(**entry[name]) for name in ("measured", "baseline"))
    middle, *quartiles = ratios(measured, baseline)
    return Row(
        strategy,
        tuned,
        task,
        measured.exact,
        statistics.mean(measured.nfe),
        sum(measured.tokens) / sum(measured.nfe),
        measured.rate,
        middle,
        (quartiles[0], quartiles[1]),
        entry["config"],
        entry.get("kept", True),
    )


def means(rows: Iterable[Row], tasks: Sequence[str]) -> list[Row]:
    """Over all tasks, of strategies that were measured on each of them."""
    groups: dict[tuple[str, bool], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.strategy, row.tuned].append(row)
    return [
        _mean(strategy, tuned, group)
        for (strategy, tuned), group in groups.items()
        if {row.task for row in group} == set(tasks)
    ]


def _mean(strategy: str, tuned: bool, group: Sequence[Row]) -> Row:
    def mean(name: str) -> float:
        return statistics.mean(getattr(row, name) for row in group)

    spread = sorted(row.ratio for row in group)
    low, _, high = statistics.quantiles(spread, n=4) if len(spread) > 1 else spread * 3
    ratio = statistics.geometric_mean(spread)
    numbers = (mean(name) for name in ("exact", "nfe", "tpf", "rate"))
    return Row(strategy, tuned, "all", *numbers, ratio, (low, high))


def front(rows: Sequence[Row]) -> list[Row]:
    """Those that no other beats, the fastest last."""
    return sorted((row for row in rows if beaten_by(row, rows) is None), key=lambda r: r.ratio)


def beaten_by(row: Row, rows: Iterable[Row]) -> Row | None:
    """The fastest that is right as often and clearly faster, or faster by less and right more."""
    better = [
        other
        for other in rows
        if (other.exact >= row.exact and other.ratio > row.ratio * SAME)
        or (other.exact > row.exact and other.ratio * SAME >= row.ratio)
    ]
    return max(better, key=lambda other: other.ratio, default=None)
