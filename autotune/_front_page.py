"""The front of a job, as a section of its page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from dllmc.compiler import html_page

if TYPE_CHECKING:
    from collections.abc import Mapping


def section(report: Mapping[str, Any]) -> list[str]:
    """What a report as JSON says of its front; nothing where one configuration was picked."""
    rows = report.get("front")
    if not rows:
        return []
    told = (
        f"<p>What no other configuration that was tried beat in both speed and quality, as far as "
        f"a loss of {report['limit']:.1%}, on {rows[0]['n']} held-out prompts. The intervals of "
        "the differences hold together with 95 % confidence. Each that keeps the margin of "
        f"{report['margin']:.1%} has a record; the fastest of them is in force.</p>"
    )
    columns = ("configuration", "keeps the margin", "speed", "difference", "at least")
    return ["<h2>The front</h2>", told, html_page.table(columns, map(_row, rows), numbers=3)]


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    (slow, fast), (low, high) = row["ratio_interval"], row["difference_interval"]
    words = row["words"] + (" (on these prompts another beat it)" if row["dominated"] else "")
    keeps = (
        f'<span class="confirmed">yes</span>, record {escape(row["record"])}'
        if row["keeps_margin"]
        else '<span class="lost">not surely</span>'
    )
    return (
        escape(words),
        keeps,
        f"{row['ratio']:.2f} ({slow:.2f}&ndash;{fast:.2f})",
        f"{row['difference']:+.1%} ({low:+.1%} to {high:+.1%})",
        f"{row['lower_bound']:+.1%}",
    )


def seeming(report: Mapping[str, Any]) -> str:
    """What is drawn in blue."""
    if not report.get("front"):
        return "seemed to keep the margin"
    return f"lost no more than {report['limit']:.1%} (the line joins the front)"


def order(report: Mapping[str, Any]) -> str:
    """In which order the tests were made."""
    if not report.get("front"):
        return "Safest first; the tests share an error of 5 %, and no p is to exceed its level"
    return "All of the front, each at its share of the error"


def best(report: Mapping[str, Any]) -> str:
    """What the knobs that mattered set apart."""
    return "configurations near the front" if report.get("front") else "fast configurations"
