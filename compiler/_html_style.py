"""How an explanation looks: in the reader's own fonts and colours, light or dark."""

from __future__ import annotations

STYLE = """
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
