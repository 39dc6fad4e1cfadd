"""The canonical graph beside the captured one, as text."""

from __future__ import annotations

import itertools
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dllmc.compiler._listing import Row, Section
    from dllmc.compiler._provenance import Source

_WIDTHS = (38, 46)
_LINES_OF_GENERIC = 4


def beside(original: Sequence[Section], canonical: Sequence[Section]) -> str:
    """What each canonical call stands for, and from which lines it came."""
    operators = {row.name: row.operator for section in original for row in section.rows}
    lines = list(_columns("canonical", "captured calls that it stands for", "source"))
    for section in canonical:
        lines += ["", title_of(section)]
        for row in section.rows:
            calls = " ".join(_counted(operators[name] for name in row.captured))
            left = row.operator if row.is_canonical else f"{row.operator} (generic)"
            lines += _columns(f"  {left}", calls or "-", places(row.sources))
    gone = removed(original, canonical)
    if gone:
        lines += ["", f"without a counterpart: {', '.join(_counted(gone))}"]
    return "\n".join(lines)


def generic_lines(generic: Mapping[str, Sequence[Row]]) -> str:
    """Operators that no pass gave a meaning, with how often and where they are called."""
    lines = []
    for operator, rows in generic.items():
        sources = sorted({source for row in rows for source in row.sources})
        shown = places(sources[:_LINES_OF_GENERIC])
        more = len(sources) - _LINES_OF_GENERIC
        lines.append(f"{operator} ×{len(rows)}  {shown}{f' and {more} more' if more > 0 else ''}")
    return "\n".join(lines)


def removed(original: Iterable[Section], canonical: Iterable[Section]) -> list[str]:
    """Operators of captured calls that no canonical call stands for.

    Of folded layers, those of the first.
    """
    canonical = list(canonical)
    kept = {name for section in canonical for row in section.rows for name in row.captured}
    hidden = {title for section in canonical for title in section.alike}
    rows = (row for section in original if section.title not in hidden for row in section.rows)
    return [row.operator for row in rows if row.name not in kept]


def title_of(section: Section) -> str:
    """The section's title, and how many layers it speaks for."""
    others = len(section.alike)
    if not others:
        return section.title
    return f"{section.title}, and {others} like it, to {section.alike[-1]}"


def places(sources: Iterable[Source]) -> str:
    """`llada.py:31-34,40` for lines of one file after another."""
    found = []
    for file, group in itertools.groupby(sources, key=lambda source: source.file):
        numbers = sorted({source.line for source in group})
        found.append(f"{Path(file).name}:{','.join(_ranges(numbers))}")
    return " ".join(found)


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    pairs = enumerate(numbers)
    for _, group in itertools.groupby(pairs, key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}"


def _counted(operators: Iterable[str]) -> list[str]:
    counts = Counter(operator.removeprefix("aten.") for operator in operators)
    return [name if count == 1 else f"{name}×{count}" for name, count in counts.items()]


def _columns(left: str, middle: str, right: str) -> Iterator[str]:
    first, second = _WIDTHS
    wrapped = textwrap.wrap(middle, second) or [""]
    texts = itertools.zip_longest([left], wrapped, [right], fillvalue="")
    for a, b, c in texts:
        yield f"{a:<{first}} {b:<{second}} {c}".rstrip()
