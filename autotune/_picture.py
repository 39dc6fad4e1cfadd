"""Loss of quality against speed, as a drawing inside a page."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_WIDTH: Final = 860
_HEIGHT: Final = 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 16, 44
_COLOURS: Final = {
    "confirmed": "#1a7f37",
    "not confirmed": "#c2410c",
    "short list": "#2a7de1",
    "feasible": "#2a7de1",
    "too lossy": "#9a9a9a",
    "too slow": "#9a9a9a",
}


class _Scale:
    """Speeds stand on a logarithmic scale, differences on a plain one."""

    def __init__(self, ratios: Sequence[float], differences: Sequence[float]) -> None:
        self.low, self.high = math.log2(min(ratios)) - 0.15, math.log2(max(ratios)) + 0.15
        self.bottom = min(*differences, -0.02) * 1.1
        self.top = max(*differences, 0.005) * 1.1

    def x(self, ratio: float) -> float:
        share = (math.log2(ratio) - self.low) / (self.high - self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, difference: float) -> float:
        share = (self.top - max(difference, self.bottom)) / (self.top - self.bottom)
        return _TOP + share * (_HEIGHT - _TOP - _BOTTOM)


def pareto(value: Mapping[str, Any]) -> str:
    """Every trial that was timed, the intervals of those that were tested, and the margin."""
    rows = [
        row
        for row in value["trials"]
        if row.get("ratio") is not None and row.get("difference") is not None
    ]
    if not rows:
        return "<p>No configuration was timed.</p>"
    margin = value["report"]["margin"]
    scale = _Scale(
        [*(row["ratio"] for row in rows), 1.0],
        [*(max(row["difference"], -0.5) for row in rows), -1.5 * margin],
    )
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" font-size="12" '
        'aria-label="difference in right answers against speed">',
        *_axes(scale, margin),
        *_front(scale, rows, value["report"].get("front", ())),
        *(part for row in rows for part in _point(scale, row)),
        "</svg>",
    ]
    return "".join(parts)


def _axes(scale: _Scale, margin: float) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for half in range(math.ceil(2 * scale.low), math.floor(2 * scale.high) + 1):
        x, ratio = scale.x(2 ** (half / 2)), 2 ** (half / 2)
        weight = 1.5 if half == 0 else 0.5
        yield f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#8886" stroke-width="{weight}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{ratio:.2g}x</text>'
    step = _step(scale.top - scale.bottom)
    for index in range(math.ceil(scale.bottom / step), math.floor(scale.top / step) + 1):
        y = scale.y(index * step)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#8886" stroke-width=".5"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{index * step:+.1%}</text>'
    y = scale.y(-margin)
    line = 'stroke="#c2410c" stroke-dasharray="6 4"'
    yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" {line}/>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    told = "speed as a multiple of SPEED_BASELINE's"
    yield f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{told}</text>'


def _step(span: float) -> float:
    """The distance of lines, of which there are about six."""
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def _front(
    scale: _Scale, rows: Sequence[Mapping[str, Any]], front: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """A line through the members of a front."""
    members = [member["config"] for member in front]
    # A configuration may have been drawn twice.
    places = {
        (scale.x(row["ratio"]), scale.y(row["difference"]))
        for row in rows
        if row["config"] in members
    }
    if places:
        way = "L".join(f"{x:.1f} {y:.1f}" for x, y in sorted(places))
        yield f'<path d="M{way}" fill="none" stroke="#8a63d2" stroke-width="1.5"/>'


def _point(scale: _Scale, row: Mapping[str, Any]) -> Iterator[str]:
    x, y = scale.x(row["ratio"]), scale.y(row["difference"])
    colour = _COLOURS.get(row["outcome"], "#9a9a9a")
    title = (
        f"{row['words']}: {row['outcome']}; {row['ratio']:.2f}x, "
        f"{row['difference']:+.1%} on {row['n']} prompts"
    )
    listed = row["lower_bound"] is not None
    yield f'<g stroke="{colour}" fill="{colour}"><title>{escape(title)}</title>'
    if listed:
        low, high = (scale.x(ratio) for ratio in row["ratio_interval"])
        end = scale.y(row["lower_bound"])
        yield f'<path d="M{low:.1f} {y:.1f}H{high:.1f}M{x:.1f} {y:.1f}V{end:.1f}"/>'
    fill = "" if listed else ' fill-opacity=".25"'
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if listed else 4}"{fill}/></g>'
