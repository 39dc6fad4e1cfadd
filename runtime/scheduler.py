"""Which sequences to evaluate together: a step is as wide as its widest row."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from dllmc.runtime.step import structure

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from dllmc.runtime.state import DecodeState

# Cost of a step besides its rows, in rows. A step of the 2.4 M model on two CPU cores takes
# about 1 ms plus 0.05 ms per row.
_OVERHEAD_ROWS = 24


def next_group(states: Sequence[DecodeState]) -> list[DecodeState]:
    """The sequences of `states` to evaluate now, of those that are not done."""
    pending = [state for state in states if not state.done]
    widths = [len(state.evaluation().rows) for state in pending]
    return [pending[index] for index in choose_group([*map(structure, pending)], widths)]


def choose_group(structures: Sequence[Hashable], widths: Sequence[int]) -> list[int]:
    """Which sequences to evaluate now, as indices.

    Of all groups "every sequence that needs at most w rows", of those that share the structure
    that most have, the one that advances most sequences per cost. Sequences that need a refresh
    therefore wait for one another, and a neighbour's refresh does not widen a step.

    Args:
        structures: What sequences must share to be evaluated together.
        widths: Rows that each needs.
    """
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for index, structure_of in enumerate(structures):
        alike[structure_of].append(index)
    group = max(alike.values(), key=len, default=[])

    def rate(width: int) -> float:
        members = sum(widths[index] <= width for index in group)
        return members / (_OVERHEAD_ROWS + members * width)

    best = max(sorted({widths[index] for index in group}), key=rate, default=0)
    return [index for index in group if widths[index] <= best]
