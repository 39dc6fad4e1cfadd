"""What rounding weights saves and costs: `python benchmarks/bench_precision.py [--models ...]`.

Speed: the latency of a window step at batch 1 for every precision, interleaved, as a ratio to that
of weights as they are, beside the time that reading the weights once takes at least (their bytes
over the copy bandwidth measured in the same run).

Quality, of the embedded model: right answers on test prompts of every task, decoded by
`QUALITY_REFERENCE`, less those of the model as it was, prompt by prompt.
"""

from __future__ import annotations

import argparse
import math
import time
from functools import partial
from statistics import median
from typing import Any

import torch
from _measure import interleave, ratio, write_results
from rich.console import Console
from rich.table import Table

import dllmc
from dllmc.artifact import weights_of
from dllmc.compiler.precision import PRECISIONS
from dllmc.runtime.programs import InductorPrograms
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import StepPlan
from dllmc.tasks import get_task, task_names

# Slots of the canvas, and rows of a window.
MODELS = {"embedded": (64, 32), "random:llada-60m": (320, 32)}
CPU = torch.device("cpu")
_COPIED = 1 << 28


def bandwidth() -> float:
    """Bytes per second at which one thread reads and writes."""
    source = torch.ones(_COPIED // 4)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - begun)
    return 2 * _COPIED / median(seconds)


def steps(model: str, rounds: int, copied: float) -> list[dict[str, Any]]:
    """One row per precision and number of rows."""
    slots, window = MODELS[model]
    packages = {
        precision or "as it is": dllmc.compile(model, precision=precision).package
        for precision in (None, *PRECISIONS)
    }
    programs = {name: InductorPrograms(package, CPU) for name, package in packages.items()}
    found = []
    for rows in (window, 1):
        plans = {
            name: StepPlan(batch=1, rows=rows, head_rows=rows, slots=slots, dtype=package.dtype)
            for name, package in packages.items()
        }
        rivals = {}
        for name, each in programs.items():
            plan = each.fit(plans[name])
            inputs = example_inputs(each.graph(plan), plan, CPU)
            rivals[name] = partial(each.run, plan, inputs)
        timings = interleave(rivals, rounds=rounds)
        for name, timing in timings.items():
            held = weights_of(packages[name].graphs["greedy"])
            size = sum(t.numel() * t.element_size() for t in held.values())
            found.append(
                {
                    "precision": name,
                    "rows": rows,
                    "weights_bytes": size,
                    "floor_ms": size / copied * 1e3,
                    "ms": timing.median * 1e3,
                    "spread_ms": [value * 1e3 for value in timing.spread()],
                    "of_unrounded": ratio(timing, timings["as it is"]),
                }
            )
    return found


def quality(prompts: int) -> list[dict[str, Any]]:
    """One row per precision: share of right answers, and the paired difference."""
    answers: dict[str, list[float]] = {}
    for precision in (None, *PRECISIONS):
        engine = dllmc.compile("embedded", backend="eager", precision=precision).engine()
        found = answers.setdefault(precision or "as it is", [])
        for name in task_names():
            task = get_task(name)
            samples = task.samples("test", prompts)
            out = engine.generate(
                [sample.prompt for sample in samples],
                config=dllmc.QUALITY_REFERENCE,
                max_new_tokens=task.max_new_tokens,
            )
            found += [float(task.score(s, t)) for s, t in zip(samples, out.text, strict=True)]
    whole = answers["as it is"]
    rows = []
    for name, found in answers.items():
        apart = [a - b for a, b in zip(found, whole, strict=True)]
        mean = sum(apart) / len(apart)
        spread = math.sqrt(sum((a - mean) ** 2 for a in apart) / max(len(apart) - 1, 1))
        rows.append(
            {
                "precision": name,
                "prompts": len(found),
                "right": sum(found) / len(found),
                "difference": mean,
                "standard_error": spread / math.sqrt(len(apart)),
                "won": sum(a > 0 for a in apart),
                "lost": sum(a < 0 for a in apart),
            }
        )
    return rows


def show(rows: list[dict[str, Any]], judged: list[dict[str, Any]]) -> None:
    for row in rows:
        shown = Table(title=f"{row['model']}: a step at batch 1")
        for column in (
            "precision",
            "rows",
            "weights MB",
            "ms",
            "quartiles",
            "of as it is",
            "floor",
        ):
            shown.add_column(column)
        for step in row["step"]:
            low, high = step["spread_ms"]
            shown.add_row(
                step["precision"],
                str(step["rows"]),
                f"{step['weights_bytes'] / 1e6:.1f}",
                f"{step['ms']:.2f}",
                f"{low:.2f} {high:.2f}",
                f"{step['of_unrounded'][0]:.2f}",
                f"{step['floor_ms']:.2f}",
            )
        Console().print(shown)
    shown = Table(title="embedded: right answers")
    for column in ("precision", "prompts", "right", "difference", "won", "lost"):
        shown.add_column(column)
    for each in judged:
        shown.add_row(
            each["precision"],
            str(each["prompts"]),
            f"{each['right']:.4f}",
            f"{each['difference']:+.4f} ± {each['standard_error']:.4f}",
            str(each["won"]),
            str(each["lost"]),
        )
    Console().print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--prompts", type=int, default=64, help="Of each task.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    copied = bandwidth()
    rows = [
        {
            "model": model,
            "copy_bytes_per_s": copied,
            "step": steps(model, arguments.rounds, copied),
        }
        for model in arguments.models
    ]
    judged = quality(arguments.prompts)
    show(rows, judged)
    print(f"written to {write_results('precision', [*rows, {'quality': judged}])}")


if __name__ == "__main__":
    main()
