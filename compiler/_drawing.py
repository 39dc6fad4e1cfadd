"""The dataflow of one layer as SVG: boxes from top to bottom, and arrows."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dllmc.compiler._listing import Row, Section

# Where a value passes as it is, in another shape: arrows go through, and no box is drawn.
PASSING = """
aten._reshape_alias aten.alias aten.contiguous aten.detach aten.expand aten.flatten aten.permute
aten.reshape aten.squeeze aten.t aten.transpose aten.unflatten aten.unsqueeze aten.view
operator.getitem
""".split()
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 190, 38, 24, 36, 40

Place = tuple[float, float]


def draw(section: Section) -> str:
    """An SVG of the section's rows; what comes from outside stands at the top."""
    rows = {row.name: row for row in section.rows if _is_drawn(row)}
    edges = _edges(section.rows, rows)
    outside = {source for sources in edges.values() for source in sources if source not in rows}
    levels = _levels(rows, edges, outside)
    places = _places(levels)
    width = max(map(len, levels)) * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = len(levels) * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN
    arrows = [
        _arrow(places[source], places[name], places.values())
        for name, sources in edges.items()
        for source in sources
    ]
    boxes = [_box(name, rows.get(name), places[name]) for name in places]
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"<title>{escape(section.title)}</title>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        f"{''.join(arrows)}{''.join(boxes)}</svg>"
    )


def _is_drawn(row: Row) -> bool:
    return bool(row.shape) and row.operator not in PASSING


def _edges(all_rows: Sequence[Row], drawn: Mapping[str, Row]) -> dict[str, list[str]]:
    """For each drawn row, the drawn rows and outside values that it reads."""
    # What a name that is not drawn stands for.
    through: dict[str, list[str]] = {}
    edges: dict[str, list[str]] = {}
    for row in all_rows:
        # A length is read everywhere and says nothing of the flow.
        found = [end for name in row.inputs for end in through.get(name, [name])]
        found = list(dict.fromkeys(found))
        if row.name in drawn:
            edges[row.name], through[row.name] = found, [row.name]
        else:
            through[row.name] = found if row.shape else []
    sizes = {name for name in _outside(edges) if name.startswith("sym_size")}
    return {name: [s for s in sources if s not in sizes] for name, sources in edges.items()}


def _outside(edges: Mapping[str, Sequence[str]]) -> set[str]:
    return {source for sources in edges.values() for source in sources} - edges.keys()


def _levels(
    rows: Mapping[str, Row], edges: Mapping[str, Sequence[str]], outside: set[str]
) -> list[list[str]]:
    level: dict[str, int] = {}
    for name in rows:
        level[name] = 1 + max((level.get(source, 0) for source in edges[name]), default=0)
    # What comes from outside stands right above its first reader.
    for source in sorted(outside):
        level[source] = min(level[name] for name in rows if source in edges[name]) - 1
    found: list[list[str]] = [[] for _ in range(max(level.values(), default=0) + 1)]
    for name, depth in level.items():
        found[depth].append(name)
    return [names for names in found if names] or [[]]


def _places(levels: Sequence[Sequence[str]]) -> dict[str, Place]:
    """The middle of each box's upper edge; each level is centred."""
    widest = max(map(len, levels))
    places: dict[str, Place] = {}
    for depth, names in enumerate(levels):
        indent = (widest - len(names)) * (_WIDTH + _GAP_X) / 2
        for index, name in enumerate(names):
            x = _MARGIN + indent + index * (_WIDTH + _GAP_X) + _WIDTH / 2
            places[name] = (x, _MARGIN + depth * (_HEIGHT + _GAP_Y))
    return places


def _arrow(start: Place, end: Place, boxes: Iterable[Place]) -> str:
    (x1, y1), (x2, y2) = (start[0], start[1] + _HEIGHT), end
    between = [x for x, y in boxes if y1 < y < y2 - _GAP_Y]
    if not between:
        way = f"L{x2:g} {y2:g}"
    else:
        # Around the boxes between, on the nearer side, as a residual stream goes.
        middle, out = (x1 + x2) / 2, (_WIDTH + _GAP_X) / 2
        left, right = min(between) - out, max(between) + out
        side = left if middle - left < right - middle else right
        turn, back = y1 + 0.6 * _GAP_Y, y2 - 0.6 * _GAP_Y
        way = f"C{x1:g} {turn:g} {side:g} {y1:g} {side:g} {turn + _GAP_Y:g}"
        way += f"L{side:g} {back - _GAP_Y:g}C{side:g} {y2:g} {x2:g} {back:g} {x2:g} {y2:g}"
    return f'<path class="flow" d="M{x1:g} {y1:g}{way}" marker-end="url(#tip)"/>'


def _box(name: str, row: Row | None, place: Place) -> str:
    x, y = place[0] - _WIDTH / 2, place[1]
    kind = "input" if row is None else "canonical" if row.is_canonical else "generic"
    title = name if row is None else row.operator
    below = "from outside" if row is None else row.shape
    return (
        f'<g class="{kind}"><rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{place[0]:g}" y="{y + 16:g}">{escape(_short(title))}</text>'
        f'<text class="shape" x="{place[0]:g}" y="{y + 30:g}">{escape(_short(below))}</text></g>'
    )


def _short(text: str, most: int = 30) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
