"""A picture of exact match against speed, as SVG."""

from __future__ import annotations

import math
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

from _policy_rows import front

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _policy_rows import Row

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 34, 46
# Where a label stands beside its point: the first place that is free.
_PLACES = ((7, -5), (7, 13), (-20, -5), (-20, 13), (7, -18), (-20, -18), (7, 26), (-20, 26))


class _Scale:
    """From a ratio and a share to where they stand; ratios on a logarithmic scale.

    Shares begin with the fifth below the least, and end a little over 1.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        logs = [math.log2(row.ratio) for row in rows]
        self.low, self.high = math.floor(min(logs)), math.ceil(max(logs))
        self.high = max(self.high, self.low + 1)
        self.least = min(4, math.floor(5 * min(row.exact for row in rows))) / 5

    def x(self, ratio: float) -> float:
        share = (math.log2(ratio) - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, exact: float) -> float:
        share = (1.03 - exact) / (1.03 - self.least)
        return _TOP + share * (_HEIGHT - _TOP - _BOTTOM)


def picture(title: str, rows: Sequence[Row]) -> str:
    """All rows as points, those that none beats joined by a line."""
    scale = _Scale(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
        *_axes(scale),
        *_line(scale, front(rows)),
        *_points(scale, rows),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axes(scale: _Scale) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for power in range(scale.low, scale.high + 1):
        x = scale.x(2.0**power)
        # The baseline's own speed is drawn darker.
        colour = "#888" if power == 0 else "#ddd"
        yield f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="{colour}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{2.0**power:g}x</text>'
    for fifths in range(round(5 * scale.least), 6):
        y = scale.y(fifths / 5)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{fifths / 5:g}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    told = "tokens per second, as a multiple of the speed baseline's"
    yield f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{told}</text>'
    place = f'x="14" y="{_HEIGHT / 2}" transform="rotate(-90 14 {_HEIGHT / 2})"'
    yield f'<text {place} text-anchor="middle">exact match</text>'


def _line(scale: _Scale, rows: Sequence[Row]) -> Iterator[str]:
    for one, other in pairwise(rows):
        ends = (scale.x(one.ratio), scale.y(one.exact), scale.x(other.ratio), scale.y(other.exact))
        yield '<path d="M{:.1f} {:.1f}L{:.1f} {:.1f}" stroke="#c60" fill="none"/>'.format(*ends)


def _points(scale: _Scale, rows: Sequence[Row]) -> Iterator[str]:
    """Hollow with published defaults, filled where tuned."""
    points = [(scale.x(row.ratio), scale.y(row.exact)) for row in rows]
    labels: list[tuple[float, float]] = []
    for row, (x, y) in zip(rows, points, strict=True):
        fill = "#06c" if row.tuned else "white"
        told = f"{row.strategy}{', tuned' if row.tuned else ''}: {row.exact:.3f}, {row.ratio:.2f}x"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="#06c">'
        yield f"<title>{escape(told)}</title></circle>"
        places = [(x + dx, y + dy) for dx, dy in _PLACES]
        taken = [*labels, *(point for point in points if point != (x, y))]
        free = (place for place in places if not any(_near(place, other) for other in taken))
        place = next(free, places[0])
        labels.append(place)
        yield f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" font-size="10">{row.label}</text>'


def _near(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return abs(one[0] - other[0]) < 14 and abs(one[1] - other[1]) < 9
