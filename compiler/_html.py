"""An explanation as one page. It reads no other file, and forbids itself to."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from dllmc.compiler import _drawing, _text
from dllmc.compiler._html_style import STYLE
from dllmc.compiler.html_page import document, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dllmc.compiler._floor import Floor
    from dllmc.compiler._listing import Row, Section
    from dllmc.compiler._provenance import Source
    from dllmc.compiler.explain import Explanation


def page(explanation: Explanation, rates: tuple[float, float] | None) -> str:
    """The page of `explanation`; `rates` are a machine's bytes/s and FLOP/s."""
    title = f"dllmc explain {explanation.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(explanation),
        "<h2>Passes</h2>",
        _passes(explanation),
        "<h2>Graphs</h2>",
        "<p>As captured, and in canonical operators. A layer that repeats the one before is shown "
        "once. A canonical call opens to the captured calls that it stands for.</p>",
        *_pairs(explanation.original, explanation.canonical),
        "<h2>One layer</h2>",
        _layer(explanation.canonical),
        "<h2>Left generic</h2>",
        _generic(explanation),
        "<h2>Operators of the step</h2>",
        _operators(explanation),
        "<h2>Floors</h2>",
        _floors(explanation.floors, rates),
    ]
    return document(title, "".join(parts), style=STYLE)


def _summary(explanation: Explanation) -> str:
    fields = explanation.spec.model_dump(exclude_none=True)
    spec = ", ".join(f"{name} {value}" for name, value in fields.items())
    captured = sum(explanation.before.values())
    lowered = ", ".join(
        f"{sum(counts.values())} in the {kind} step" for kind, counts in explanation.after.items()
    )
    return (
        f"<p>{escape(explanation.name)}: {escape(spec)}</p>"
        f"<p>{captured} captured calls became {escape(lowered)}.</p>"
    )


def _passes(explanation: Explanation) -> str:
    rows = (
        (
            f"<code>{escape(result.name)}</code>",
            escape(result.skipped_because or ""),
            str(result.matched),
            "any" if result.expected is None else str(result.expected),
            str(result.nodes_before),
            str(result.nodes_after),
            f"{1e3 * result.seconds:.1f}",
        )
        for result in explanation.passes
    )
    columns = ("pass", "skipped because", "matched", "expected", "nodes before", "after", "ms")
    return table(columns, rows, numbers=5)


def _pairs(original: Sequence[Section], canonical: Sequence[Section]) -> list[str]:
    """The captured and the canonical rows of each section beside one another."""
    left = {section.title: section for section in original}
    right = {section.title: section for section in canonical}
    # One graph may fold a layer that the other does not: it is shown where it stands.
    titles = list(dict.fromkeys([*left, *right]))
    calls = {row.name: row for section in original for row in section.rows}
    parts = []
    for title in titles:
        shown = right.get(title) or left[title]
        sides = (
            _listing("captured", left.get(title), calls, with_origins=False),
            _listing("canonical", right.get(title), calls, with_origins=True),
        )
        parts.append(
            f"<details><summary>{escape(_text.title_of(shown))}</summary>"
            f'<div class="pair">{"".join(sides)}</div></details>'
        )
    return parts


def _listing(
    name: str, section: Section | None, calls: dict[str, Row], *, with_origins: bool
) -> str:
    if section is None:
        return f'<div class="side"><h3>{name}</h3><p>as the layer before</p></div>'
    rows = (
        (_call(row, calls if with_origins else {}), _places(row.sources)) for row in section.rows
    )
    heading = f"{name}: {len(section.rows)} calls"
    return f'<div class="side"><h3>{heading}</h3>{table(("call", "source"), rows)}</div>'


def _call(row: Row, calls: dict[str, Row]) -> str:
    kind = "canonical" if row.is_canonical else "generic"
    inputs = escape(", ".join(row.inputs))
    text = (
        f'<code><span class="name">{escape(row.name)}</span> = '
        f'<span class="{kind}">{escape(row.operator)}</span>({inputs}) '
        f'<span class="shape">{escape(row.shape)}</span></code>'
    )
    origins = [calls[name] for name in row.captured if name in calls]
    if not origins:
        return text
    items = "".join(
        f"<li><code>{escape(origin.name)} = {escape(origin.operator)}</code> "
        f"{_places(origin.sources)}</li>"
        for origin in origins
    )
    return f"<details><summary>{text}</summary><ul>{items}</ul></details>"


def _places(sources: Iterable[Source]) -> str:
    return "<br>".join(map(_place, sources))


def _place(source: Source) -> str:
    place = escape(_text.places([source]))
    return (
        f'<span class="place" title="{escape(source.file)}">{place}</span> '
        f"<code>{escape(source.code)}</code>"
    )


def _layer(canonical: Sequence[Section]) -> str:
    # The longest chain of like layers says most; ties go to the first.
    section = max(
        (s for s in canonical if any(row.operator.endswith("attention") for row in s.rows)),
        key=lambda s: len(s.alike),
        default=None,
    )
    if section is None:
        return "<p>No section of the graph has an attention call.</p>"
    return (
        f"<p>{escape(_text.title_of(section))}. Parameters, lengths and changes of shape are left "
        f'out.</p><div class="drawing">{_drawing.draw(section)}</div>'
    )


def _generic(explanation: Explanation) -> str:
    rows = (
        (
            f"<code>{escape(operator)}</code>",
            _places(sorted({source for row in rows for source in row.sources})),
            str(len(rows)),
        )
        for operator, rows in explanation.generic.items()
    )
    return (
        "<p>Calls of the canonical graph that no pass gave a meaning. Each is proved "
        "position-wise by itself, and left to the back end.</p>"
        + table(("operator", "source", "calls"), rows, numbers=1)
    )


def _operators(explanation: Explanation) -> str:
    kinds = list(explanation.after)
    names = sorted({name for counts in explanation.after.values() for name in counts})
    names = sorted({*names, *explanation.before})
    rows = (
        (
            f"<code>{escape(name)}</code>",
            str(explanation.before.get(name) or ""),
            *(str(explanation.after[kind].get(name) or "") for kind in kinds),
        )
        for name in names
    )
    return table(("operator", "captured", *kinds), rows, numbers=1 + len(kinds))


def _floors(floors: Sequence[Floor], rates: tuple[float, float] | None) -> str:
    if not floors:
        return "<p>No plan was asked for.</p>"
    columns = ["batch", "rows", "slots", "MFLOP", "MB", *(("floor ms",) if rates else ())]
    rows = []
    for floor in floors:
        plan = floor.plan
        cells = [plan.batch, plan.rows, plan.slots, f"{floor.flops / 1e6:,.0f}"]
        cells.append(f"{floor.bytes / 1e6:.1f}")
        if rates is not None:
            cells.append(f"{1e3 * floor.seconds(bandwidth=rates[0], rate=rates[1]):.2f}")
        rows.append([str(cell) for cell in cells])
    said = "<p>The least work of a step: what it computes, and what it has to read.</p>"
    return said + table(columns, rows, numbers=len(columns))
