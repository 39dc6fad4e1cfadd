"""How far the pick is from what is possible, as a section of a job's page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from dllmc.compiler import html_page

if TYPE_CHECKING:
    from collections.abc import Mapping


def section(value: Mapping[str, Any]) -> list[str]:
    """What the JSON of a job says of its floors; nothing if it is of before there were any."""
    found = value.get("floors")
    if found is None:
        return []
    return [
        "<h2>What is possible</h2>",
        _oracle(found["oracle"]),
        _roofline(found["roofline"]),
    ]


def _oracle(found: Mapping[str, Any]) -> str:
    if "skipped" in found:
        return f"<p>No oracle floor: {escape(found['skipped'])}.</p>"
    told = (
        "<p>The oracle knows the final tokens that one token per step gives, and commits each as "
        "soon as it is the likeliest. Mean evaluations per prompt, over "
        f"{found['prompts']} tune prompts, in blocks of {found['block_length']} tokens:</p>"
    )
    rows = [
        (escape(name), f"{nfe:.1f}", f"{nfe / found['nfe']:.2f}")
        for name, nfe in {**found["nfe_of"], "oracle": found["nfe"]}.items()
    ]
    return told + html_page.table(("", "evaluations", "times the oracle's"), rows, numbers=2)


def _roofline(found: Mapping[str, Any]) -> str:
    if "skipped" in found:
        return f"<p>No roofline floor: {escape(found['skipped'])}.</p>"
    return (
        f"<p>What ships takes {found['seconds'] * 1e3:.1f} ms per prompt, {found['times']:.1f} "
        f"times the roofline floor of its steps, {found['floor_seconds'] * 1e3:.1f} ms over "
        f"{found['prompts']} tune prompts: this machine reads {found['bandwidth'] / 1e9:.1f} GB/s "
        f"and multiplies at {found['rate'] / 1e9:.0f} GFLOP/s at best, and each step takes the "
        "longer of the two.</p>"
    )
