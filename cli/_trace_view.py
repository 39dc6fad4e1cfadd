"""A trace in the terminal: its steps, the response as it appears, and when each token came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dllmc.cli._console import output, table
from dllmc.cli._trace_words import MASK, lowest, places, ranges, word, words, written

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from dllmc.runtime import Trace

# From early to late; the 256-colour codes of a terminal.
_HEAT = (21, 27, 33, 39, 45, 49, 118, 190, 220, 214, 208, 202, 196)


def show(trace: Trace) -> None:
    """Print all there is to see."""
    console = output()
    console.print(_steps(trace))
    console.print("\nthe response after each evaluation:")
    for line in appearing(trace):
        console.print(line)
    console.print("\nthe response, coloured and numbered by evaluation:")
    console.print(_strip(trace))


def _steps(trace: Trace) -> Table:
    numbers = ("rows", "lowest", "ms")
    found = table("evaluation", "rows", "committed", "at", "lowest", "ms", "tokens", right=numbers)
    for step in trace:
        found.add_row(
            str(step.nfe),
            str(len(step.rows)),
            written(trace, step),
            ranges(places(trace, step.positions)),
            lowest(step),
            f"{1e3 * step.seconds:.1f}",
            Text(words(trace, step.tokens), overflow="ellipsis", no_wrap=True),
        )
    return found


def appearing(trace: Trace) -> Iterator[Text]:
    """The response after each step: what is new on colour, what is old in it."""
    width = len(str(len(trace)))
    for index, held in enumerate(_held(trace)):
        line = Text(f"{trace[index].nfe:>{width}} ")
        before = False
        for token, when in held[: trace.response_length]:
            is_mask = token == trace.mask_id
            line.append("" if is_mask and before else " ")
            line.append(MASK if is_mask else word(trace, token), _style(trace, when, index))
            before = is_mask
        yield line


def _style(trace: Trace, when: int | None, now: int) -> str:
    if when is None:
        return "dim"
    heat = _heat(trace, when)
    return f"black on {heat}" if when == now else heat


def _strip(trace: Trace) -> Text:
    strip = Text()
    *_, held = [[], *_held(trace)]
    # What stands after the end is not part of the response.
    for token, when in held[: len(trace.tokens)]:
        if when is None:
            strip.append(f"{MASK} ", style="dim")
            continue
        strip.append(word(trace, token), style=f"black on {_heat(trace, when)}")
        strip.append(f"{trace[when].nfe} ", style="dim")
    return strip


def _held(trace: Trace) -> Iterator[list[tuple[int, int | None]]]:
    """After each step, every token of the response and the index of the step that wrote it."""
    when: dict[int, int] = {}
    canvases = trace.canvases()
    next(canvases)
    for index, canvas in enumerate(canvases):
        when |= dict.fromkeys(trace[index].positions, index)
        yield [
            (token, None if token == trace.mask_id else when[position])
            for position, token in enumerate(canvas)
            if position >= trace.response_start
        ]


def _heat(trace: Trace, index: int) -> str:
    return f"color({_HEAT[index * (len(_HEAT) - 1) // max(len(trace) - 1, 1)]})"
