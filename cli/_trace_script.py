"""What moves the page of a trace: its slider, its keys, and the canvas that follows them."""

from __future__ import annotations

STYLE = """
.controls { display: flex; gap: .8rem; align-items: center; position: sticky; top: 0;
  background: Canvas; padding: .5rem 0; z-index: 1; }
.controls input { flex: 1; } .controls button { min-width: 5rem; font: inherit; }
.controls output { min-width: 9ch; text-align: right; font-variant-numeric: tabular-nums; }
.tokens { display: flex; flex-wrap: wrap; gap: 4px 3px; }
.token { font: 13px/1.5 ui-monospace, monospace; box-sizing: content-box; text-align: center;
  white-space: pre; border-radius: 4px; padding: 0 4px; border: 2px solid transparent;
  box-shadow: 0 3px 0 transparent; }
.held { color: #111; background: oklch(.82 .12 calc(265 - 240 * var(--when))); }
.mask { background: var(--line); }
.given { border-color: var(--line); }
.evaluated { box-shadow: 0 3px 0 currentColor; }
.fresh { border-color: CanvasText; }
.revised { border-style: dashed; border-color: CanvasText; }
.after { opacity: .45; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; align-items: center; }
.legend .scale .token { padding: 0 .35rem; border-width: 0; border-radius: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; }
"""

# All text goes in as text: a token never becomes markup.
SCRIPT = r"""
"use strict";
const at = id => document.getElementById(id);
const {start, end, mask, words, prompt, length, steps} = JSON.parse(at("trace").textContent);
const slider = at("step"), play = at("play");
const word = token => words[token] ?? String(token);
const span = (parent, tag, text, kind) => {
  const made = parent.appendChild(document.createElement(tag));
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

// Boxes are as wide as the longest token that they ever hold, so that nothing moves.
const widths = Array.from({length}, (_, p) => p < start ? [...word(prompt[p])].length : 1);
for (const step of steps) step.positions.forEach((p, i) => {
  if (step.tokens[i] !== mask) widths[p] = Math.max(widths[p], [...word(step.tokens[i])].length);
});
const boxes = widths.map((width, position) => {
  const box = span(at(position < start ? "prompt" : "response"), "span", "", "token");
  box.style.minWidth = `${width}ch`;
  return box;
});

// How each box looks now: to set them all anew takes 0.2 s for 4,000 tokens.
const drawn = [];

function replay(count) {
  const held = new Map();
  steps.slice(0, count).forEach((step, index) => step.positions.forEach((position, i) => {
    const token = step.tokens[i];
    if (token === mask) held.delete(position);
    else held.set(position, {token, index, confidence: step.confidences[i]});
  }));
  return held;
}

const sure = value => value === null ? "?" : value.toFixed(3);

function draw(count) {
  const now = count ? steps[count - 1] : {rows: [], positions: [], revised: []};
  const held = replay(count), fresh = new Set(now.positions), revised = new Set(now.revised);
  const evaluated = new Set();
  for (const [first, last] of now.rows) for (let p = first; p < last; p++) evaluated.add(p);
  boxes.forEach((box, position) => {
    const is = held.get(position), given = position < start;
    const kinds = ["token", given ? "given" : is ? "held" : "mask"];
    if (evaluated.has(position)) kinds.push("evaluated");
    if (fresh.has(position)) kinds.push("fresh");
    if (revised.has(position)) kinds.push("revised");
    if (position >= end) kinds.push("after");
    const look = `${kinds} ${is?.token} ${is?.index}`;
    if (drawn[position] === look) return;
    drawn[position] = look;
    box.className = kinds.join(" ");
    box.textContent = given ? word(prompt[position]) : is ? word(is.token) : "·";
    box.title = given ? `prompt, ${position}: token ${prompt[position]}` : is
      ? `${position - start}: token ${is.token}, evaluation ${steps[is.index].nfe}, ` +
        `confidence ${sure(is.confidence)}` : `${position - start}: masked`;
    if (is) box.style.setProperty("--when", is.index / Math.max(steps.length - 1, 1));
  });
}

function tell(count) {
  const panel = at("panel");
  panel.replaceChildren();
  if (!count) return void span(panel, "p", "Before the first evaluation.");
  const step = steps[count - 1], before = replay(count - 1), facts = span(panel, "dl", "");
  const said = {evaluation: step.nfe, rows: step.said, plan: step.plan || "?",
    written: step.written, time: `${(1e3 * step.seconds).toFixed(2)} ms`};
  for (const [name, value] of Object.entries(said)) {
    span(facts, "dt", name);
    span(facts, "dd", value);
  }
  if (!step.positions.length) return;
  const table = span(panel, "table", "");
  const line = (tag, cells) => {
    const row = span(table, "tr", "");
    cells.forEach((cell, i) => span(row, tag, cell, i && i < 3 ? "" : "number"));
  };
  line("th", ["at", "token", "before", "confidence"]);
  step.positions.forEach((position, i) => {
    const old = before.get(position), token = step.tokens[i];
    line("td", [position - start, token === mask ? "·" : word(token), old ? word(old.token) : "·",
      sure(step.confidences[i])]);
  });
}

function show(count) {
  count = Math.max(0, Math.min(steps.length, count));
  slider.value = count;
  at("count").textContent = `${count} of ${steps.length}`;
  draw(count);
  tell(count);
}

let timer = null;
function pause() {
  clearInterval(timer);
  timer = null;
  play.textContent = "play";
}
function toggle() {
  if (timer !== null) return pause();
  if (Number(slider.value) === steps.length) show(0);
  play.textContent = "pause";
  // The whole in 20 seconds at most.
  timer = setInterval(() => {
    show(Number(slider.value) + 1);
    if (Number(slider.value) === steps.length) pause();
  }, Math.min(600, 20000 / Math.max(steps.length, 1)));
}
play.addEventListener("click", toggle);
slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const here = Number(slider.value);
  const to = {ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: steps.length}[event.key];
  if (to !== undefined) { pause(); show(to); }
  else if (event.key === " " && !["BUTTON", "SUMMARY"].includes(event.target.tagName)) toggle();
  else return;
  event.preventDefault();
});
// `page.html#3` opens at the third evaluation.
const open = () => show(location.hash ? Number(location.hash.slice(1)) || 0 : steps.length);
addEventListener("hashchange", open);
open();
"""
