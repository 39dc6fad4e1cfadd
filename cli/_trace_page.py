"""A trace as one page with a slider over its steps; it reads no other file."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from dllmc.cli import _trace_words as said
from dllmc.cli._trace_script import SCRIPT, STYLE
from dllmc.compiler import html_page

if TYPE_CHECKING:
    from dllmc.runtime import Trace, TraceStep

_SHADES = 13
_LEGEND = (
    ("mask", "·", "masked"),
    ("given evaluated", "a", "evaluated now"),
    ("held fresh", "a", "committed now"),
    ("held revised", "a", "replaced or taken back now"),
    ("held after", "a", "after the end"),
)
_KEYS = "Keys: left and right step, Home and End go to either end, space plays."


def page(trace: Trace) -> str:
    """The page of `trace`."""
    title = f"dllmc trace {trace.model}"
    last = len(trace)
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(said.summary(trace))}</p>",
        f"<p><code>{escape(json.dumps(trace.config, ensure_ascii=False))}</code></p>",
        '<div class="controls"><button id="play" type="button">play</button>'
        f'<input id="step" type="range" min="0" max="{last}" value="{last}" '
        f'aria-label="evaluation"><output id="count" for="step">{last} of {last}</output></div>',
        _legend(trace),
        '<h2>Response</h2><div class="tokens" id="response"></div>',
        '<h2>Prompt</h2><div class="tokens" id="prompt"></div>',
        f'<h2>This evaluation</h2><div id="panel"></div><p>{_KEYS}</p>',
        "<noscript><p>The canvas needs JavaScript; the table has every evaluation.</p></noscript>",
        f"<details><summary>All evaluations</summary>{_steps(trace)}</details>",
        f'<script id="trace" type="application/json">{_data(trace)}</script>',
    ]
    return html_page.document(title, "".join(parts), style=STYLE, script=SCRIPT)


def _legend(trace: Trace) -> str:
    shades = "".join(
        f'<span class="token held" style="--when: {index / (_SHADES - 1):.3f}"> </span>'
        for index in range(_SHADES)
    )
    kinds = "".join(
        f'<span><span class="token {kind}" style="--when: 0.5">{text}</span> {name}</span>'
        for kind, text, name in _LEGEND
    )
    scale = f'<span class="scale">evaluation 1 {shades} {len(trace)}</span>'
    return f'<div class="legend">{scale}{kinds}</div>'


def _steps(trace: Trace) -> str:
    columns = ("tokens", "at", "written", "evaluation", "rows", "lowest confidence", "ms")
    rows = (
        (
            f"<code>{escape(said.words(trace, step.tokens))}</code>",
            said.ranges(said.places(trace, step.positions)),
            said.written(trace, step),
            str(step.nfe),
            str(len(step.rows)),
            said.lowest(step),
            f"{1e3 * step.seconds:.2f}",
        )
        for step in trace
    )
    return html_page.table(columns, rows, numbers=4)


def _data(trace: Trace) -> str:
    header, *lines = trace.lines()
    values = {
        "start": trace.response_start,
        "end": trace.response_start + len(trace.tokens),
        "length": trace.length,
        "mask": trace.mask_id,
        "prompt": header["prompt"],
        "words": {token: said.word(trace, token) for token in trace.ids},
        "steps": [line | _in_words(trace, step) for line, step in zip(lines, trace, strict=True)],
    }
    # Inside a script element only `<` can end it, or start a comment.
    return json.dumps(values).replace("<", "\\u003c")


def _in_words(trace: Trace, step: TraceStep) -> dict[str, Any]:
    return {"said": said.rows(trace, step), "written": said.written(trace, step)}
