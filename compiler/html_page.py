"""A page that is whole in itself: its frame, its tables, and how it looks, light or dark."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# No font, no image, no address: whatever a source line or a token may hold, nothing of it runs
# and nothing is fetched.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
# In the reader's own fonts and colours.
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --canonical: #2a7de1; --generic: #b4690e; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem;
  padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
code { font: 12.5px ui-monospace, monospace; overflow-wrap: anywhere; }
table { border-collapse: collapse; } th { text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .15rem .6rem; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
summary { cursor: pointer; } ul { margin: .2rem 0 .4rem; }
body > details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0;
  padding: .4rem .8rem; }
"""


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A page of HTML.

    Args:
        title: Plain text.
        body: HTML.
        style: More rules.
        script: The one script that may run: the page's policy holds its hash.
    """
    policy, end = _POLICY, ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, end = f"{policy}; script-src 'sha256-{digest}'", f"<script>{script}</script>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body>{body}{end}</body></html>\n"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table whose cells are HTML; the last `numbers` columns are aligned to the right."""
    kinds = [""] * (len(columns) - numbers) + [' class="number"'] * numbers
    head = "".join(f"<th{k}>{escape(c)}</th>" for k, c in zip(kinds, columns, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{k}>{cell}</td>' for k, cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
