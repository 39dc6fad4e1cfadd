"""Which sequences to evaluate together: a step is as wide as its widest row."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dllmc.runtime.step import structure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.runtime.state import DecodeState

# Cost of a step besides its rows, in rows. A step of the 2.4 M model on two CPU cores takes
# about 1 ms plus 0.05 ms per row.
_OVERHEAD_ROWS = 24


def next_group(states: Sequence[DecodeState]) -> list[DecodeState]:
    """The sequences of `states` to evaluate now, of those that are not done.

    Of all groups "every sequence that needs at most w rows", the one that advances most sequences
    per cost. Sequences that need a refresh therefore wait for one another, and a neighbour's
    refresh does not widen a step.
    """
    pending: dict[tuple[object, ...], list[DecodeState]] = defaultdict(list)
    for state in states:
        if not state.done:
            pending[structure(state)].append(state)
    if not pending:
        return []
    group = max(pending.values(), key=len)
    widths = {state: _width(state) for state in group}

    def rate(width: int) -> float:
        members = sum(w <= width for w in widths.values())
        return members / (_OVERHEAD_ROWS + members * width)

    best = max(sorted(set(widths.values())), key=rate)
    return [state for state in group if widths[state] <= best]


def _width(state: DecodeState) -> int:
    return len(state.evaluation().rows)
