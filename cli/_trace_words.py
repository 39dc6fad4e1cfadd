"""Traces in words: tokens, places, rows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dllmc.runtime import Trace, TraceStep

MASK = "·"
_SIGNS = {"\n": "⏎", "\t": "⇥"}


def word(trace: Trace, token: int) -> str:
    """A token to be shown; its id where there is no text.

    What is not printable is escaped: a file from elsewhere must not control the terminal.
    """
    piece = (trace.pieces or {}).get(token)
    if piece is None:
        return str(token)
    shown = "".join(_SIGNS.get(c) or (c if c.isprintable() else _escaped(c)) for c in piece)
    return shown.strip() or "␣"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def words(trace: Trace, tokens: Iterable[int]) -> str:
    """Tokens to be shown; one that repeats once, with its count."""
    found = []
    for token, repeated in itertools.groupby(tokens):
        count, shown = len(list(repeated)), word(trace, token)
        found.append(shown if count == 1 else f"{shown} ×{count}")
    return " ".join(found)


def ranges(places: Iterable[int]) -> str:
    """`0-3 7` for 0, 1, 2, 3, 7."""
    found: list[list[int]] = []
    for place in sorted(places):
        if found and place == found[-1][-1] + 1:
            found[-1][1] = place
        else:
            found.append([place, place])
    return " ".join(_range(*span) for span in found)


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def places(trace: Trace, positions: Iterable[int]) -> list[int]:
    """Positions counted from the start of the response."""
    return [position - trace.response_start for position in positions]


def rows(trace: Trace, step: TraceStep) -> str:
    """`40: 32 of the prompt, response 0-7`."""
    start, parts = trace.response_start, []
    given = sum(min(end, start) - first for first, end in step.spans if first < start)
    inside = [(max(first, start) - start, end - start - 1) for first, end in step.spans]
    shown = [_range(*span) for span in inside if span[0] <= span[1]]
    parts += [f"{given} of the prompt"] * (given > 0)
    parts += [f"response {' '.join(shown)}"] * bool(shown)
    return f"{len(step.rows)}: {', '.join(parts)}" if parts else "0"


def written(trace: Trace, step: TraceStep) -> str:
    """`3, 1 replaced, 1 taken back`."""
    back = step.tokens.count(trace.mask_id)
    replaced = sum(
        position in step.revised and token != trace.mask_id
        for position, token in zip(step.positions, step.tokens, strict=True)
    )
    counts = {"replaced": replaced, "taken back": back}
    said = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join([str(len(step.positions) - back), *said])


def summary(trace: Trace) -> str:
    """What was decoded, in a line."""
    seconds = sum(step.seconds for step in trace)
    return (
        f"{trace.model}: {len(trace)} evaluation{'s'[: len(trace) != 1]}, "
        f"{len(trace.tokens)} token{'s'[: len(trace.tokens) != 1]}, {1e3 * seconds:.1f} ms"
    )


def lowest(step: TraceStep) -> str:
    """The lowest confidence of a step."""
    return f"{min(step.confidences):.3f}" if step.confidences else ""
