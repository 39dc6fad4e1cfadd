"""docs/policies.md, its pictures and the results behind them."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _pareto import picture
from _policy_rows import SAME, Row, beaten_by, front, means, rows_of

from dllmc.cli._config import describe
from dllmc.policies.config import DecodingConfig
from dllmc.policies.published import BASELINE, BLOCK, REFERENCE, STRATEGIES
from dllmc.tasks import generator_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from _policy_runs import Store

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "policies.json"
_OF_TUNED = ("config", "kept")
_DIGITS = ("exact", "nfe", "tpf", "rate", "ratio")


def write_pages(store: Store, environment: Mapping[str, Any]) -> list[Path]:
    """Write the page, a picture of each task, and the results; returns where they are."""
    tasks = [task.name for task in generator_tasks()]
    rows = rows_of(store.entries)
    oracle = {
        task: statistics.mean(store.entries[f"oracle/{task}"]["nfe"])
        for task in tasks
        if f"oracle/{task}" in store.entries
    }
    page, folder = ROOT / "docs" / "policies.md", ROOT / "docs" / "pareto"
    folder.mkdir(exist_ok=True)
    pictured = [task for task in tasks if any(row.task == task for row in rows)]
    for task in pictured:
        shown = [row for row in rows if row.task == task]
        (folder / f"{task}.svg").write_text(picture(task, shown), encoding="utf-8")
    dates = sorted({entry["date"] for entry in store.entries.values()})
    trials = max(entry.get("trials", 0) for entry in store.entries.values())
    settings = {
        **store.settings,
        "dates": dates,
        "python": environment["python"],
        "trials": trials,
    }
    kept = {
        "settings": settings,
        "oracle_nfe": oracle,
        "strategies": {row.strategy: row.config for row in rows if not row.tuned},
        "rows": [_kept(row) for row in rows],
    }
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    lines = _page(settings, rows, oracle, pictured)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [page, folder, RESULTS]


def _kept(row: Row) -> dict[str, Any]:
    """The configuration of a published row stands once for all tasks."""
    rounded = {name: round(getattr(row, name), 4) for name in _DIGITS}
    found = {**asdict(row), **rounded, "quartiles": [round(q, 4) for q in row.quartiles]}
    return found if row.tuned else {k: v for k, v in found.items() if k not in _OF_TUNED}


def _page(
    settings: Mapping[str, Any],
    rows: Sequence[Row],
    oracle: Mapping[str, float],
    tasks: Sequence[str],
) -> Iterator[str]:
    yield from _introduction(settings, len(tasks))
    overall = means(rows, tasks)
    yield from _table(overall, statistics.mean(oracle.values()), len(tasks))
    yield from _verdicts(overall, rows, tasks)
    yield from _gains(overall, rows, settings)
    yield from ("", "## Task by task", "")
    yield (
        "Hollow points are published defaults, filled ones (`t`) tuned; the number is that of the "
        "table. The line joins those that none beats."
    )
    for task in tasks:
        yield from _task(task, [row for row in rows if row.task == task], oracle[task])


def _introduction(settings: Mapping[str, Any], tasks: int) -> Iterator[str]:
    hardware, dates, count = settings["hardware"], settings["dates"], settings["prompts"]
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    options = ("backend", "threads", "batch", "prompts", "tune_prompts")
    command = " ".join(f"--{name.replace('_', '-')} {settings[name]}" for name in options)
    yield f"""\
# Published strategies on the embedded model

Written by `python benchmarks/bench_policies.py {command} --trials {settings["trials"]} --page`,
with [its pictures](pareto) and [the numbers](../benchmarks/results/policies.json). Measured
{when} on {hardware["name"]} ({hardware["architecture"]}, {settings["threads"]} thread) with torch
{settings["torch"]} and Python {settings["python"]}: {count} test prompts of each built-in task,
decoded {settings["batch"]} at a time by the back end {settings["backend"]}. Seconds are processor
time, since the machine did other work too.

Every strategy decodes with the defaults that its authors published, but in blocks of {BLOCK}
tokens where it has blocks: responses have 32. Nothing was trained for any of them: dParallel, for
example, is a rule for a model that was distilled for it, and here one for a model that was not.
APD and SpecDiff ask the auxiliary model too, an autoregressive one; SpecDiff's output is that
model's. Not here are those that need other weights than this model's: D2F, SDAR, Fast-dLLM v2,
LLaDA2.1's editing, Learn2PD's filter and ADJUST. What is compared:

- **exact**: share of right answers, as the task judges them;
- **NFE**: evaluations per prompt, and **of oracle** how many times those of
  `dllmc bench --oracle`, which commits in every evaluation what it already predicts rightly;
- **TPF**: response tokens per evaluation;
- **speed**: response tokens per second, as a multiple of those of *{BASELINE}* (threshold 0.9),
  decoded batch by batch in turn with it.

This model is small and its evaluations are cheap, so that what surrounds them weighs more than in
a large model: NFE says what a strategy saves, and speed what is left of it here. The standard
error of an exact match is at most {0.5 / count**0.5:.2f}, that of a mean of all tasks
{0.5 / (count * tasks) ** 0.5:.3f}.
"""


def _table(overall: Sequence[Row], oracle: float, tasks: int) -> Iterator[str]:
    yield from (f"## Mean of {tasks} tasks", "")
    yield "| # | strategy | arXiv | exact | NFE | of oracle | TPF | tokens/s | speed | from, to |"
    yield "|---|---|---|---:|---:|---:|---:|---:|---:|---|"
    papers = {strategy.name: strategy.paper for strategy in STRATEGIES}
    for row in overall:
        name = f"{row.strategy}, tuned per task" if row.tuned else row.strategy
        low, high = row.quartiles
        yield (
            f"| {row.label} | {name} | {papers[row.strategy]} | {row.exact:.3f} | {row.nfe:.1f} "
            f"| {row.nfe / oracle:.2f}x | {row.tpf:.2f} | {row.rate:,.0f} | {row.ratio:.2f}x "
            f"| {low:.2f}, {high:.2f} |"
        )
    yield f"|  | oracle |  |  | {oracle:.1f} | 1.00x |  |  |  |  |"
    yield ""
    yield "Speed is the geometric mean over tasks; between *from* and *to* lies the middle half."


def _verdicts(overall: Sequence[Row], rows: Sequence[Row], tasks: Sequence[str]) -> Iterator[str]:
    published = [row for row in overall if not row.tuned]
    fronts = [
        {row.strategy for row in front([r for r in rows if r.task == task and not r.tuned])}
        for task in tasks
    ]
    yield from ("", "## What pays here, and what does not", "")
    yield (
        f"A strategy is beaten by one that is right as often and over {SAME - 1:.0%} faster, or "
        "right more often and no slower. By their means, with published defaults, these are not:"
    )
    yield ""
    for row in front(published):
        yield f"- **{row.strategy}**: {row.exact:.3f} right at {row.ratio:.2f}x."
    yield from ("", "The others do not pay here, as the last column does better:", "")
    yield "| strategy | right | speed | unbeaten on | beaten by |"
    yield "|---|---:|---:|---:|---|"
    for row in published:
        other = beaten_by(row, published)
        if other is not None:
            alone = sum(row.strategy in names for names in fronts)
            yield (
                f"| {row.strategy} | {row.exact:.3f} | {row.ratio:.2f}x | {alone} of {len(tasks)} "
                f"| {other.strategy}: {other.exact:.3f}, {other.ratio:.2f}x |"
            )


def _gains(
    overall: Sequence[Row], rows: Sequence[Row], settings: Mapping[str, Any]
) -> Iterator[str]:
    """What tuning does, by the means of all tasks."""
    known = {(row.strategy, row.tuned): row for row in overall}
    if not any(row.tuned for row in overall):
        return
    yield from ("", "## What tuning does", "")
    yield (
        f"Each strategy's own knobs and block length, tuned for each task apart: of up to "
        f"{settings['trials']} configurations, the published one first, the fastest that was "
        f"right on {settings['tune_prompts']} tune prompts as often as *{REFERENCE}*, up to one "
        "prompt. **Kept** says on how many tasks there was such a one; on the others the one that "
        "was right most often stands. Measured on test prompts, means of all tasks, from what is "
        "published to what was found."
    )
    yield ""
    yield "| strategy | right | speed | NFE | kept |"
    yield "|---|---|---|---|---|"
    for strategy in STRATEGIES:
        before, after = (known.get((strategy.name, tuned)) for tuned in (False, True))
        if before is None or after is None:
            continue
        tasks = [row.kept for row in rows if row.strategy == strategy.name and row.tuned]
        yield (
            f"| {strategy.name} | {before.exact:.3f} → {after.exact:.3f} "
            f"| {before.ratio:.2f}x → {after.ratio:.2f}x | {before.nfe:.1f} → {after.nfe:.1f} "
            f"| {tasks.count(True)} of {len(tasks)} |"
        )
    yield from ("", "Tuned for each task, these are not beaten by their means:", "")
    for row in front([row for row in overall if row.tuned]):
        yield f"- **{row.strategy}**: {row.exact:.3f} right at {row.ratio:.2f}x."


def _task(task: str, rows: Sequence[Row], oracle: float) -> Iterator[str]:
    yield from ("", f"### {task}", "", f"![{task}](pareto/{task}.svg)", "")
    yield f"Oracle: {oracle:.1f} evaluations. Not beaten, of {len(rows)} measured:"
    yield ""
    yield "| # | strategy | exact | NFE | TPF | speed | from, to | decodes with |"
    yield "|---|---|---:|---:|---:|---:|---|---|"
    for row in front(rows):
        name = f"{row.strategy}, tuned" if row.tuned else row.strategy
        low, high = row.quartiles
        yield (
            f"| {row.label} | {name} | {row.exact:.3f} | {row.nfe:.1f} | {row.tpf:.2f} "
            f"| {row.ratio:.2f}x | {low:.2f}, {high:.2f} "
            f"| {describe(DecodingConfig(**(row.config or {})))} |"
        )
