"""How an explanation looks, beside what every page has."""

from __future__ import annotations

STYLE = """
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; }
.side { min-width: 0; } .side table { width: 100%; }
.canonical { color: var(--canonical); font-weight: 600; } .generic { color: var(--generic); }
.shape, .place { opacity: .7; } .place { white-space: nowrap; }
.drawing { overflow-x: auto; }
svg { font: 12px ui-monospace, monospace; }
svg text { text-anchor: middle; fill: currentColor; font-weight: 400; }
svg .shape { font-size: 10.5px; }
svg rect { fill: none; stroke: var(--line); stroke-width: 1.2; }
svg .canonical rect { stroke: var(--canonical); stroke-width: 2; }
svg .generic rect { stroke: var(--generic); }
svg .input rect { stroke-dasharray: 4 3; }
svg .flow { fill: none; stroke: currentColor; opacity: .55; }
svg marker path { fill: currentColor; }
"""
