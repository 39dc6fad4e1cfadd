"""Retargeting against tuning anew: `python benchmarks/bench_retarget.py [--tasks ...] [--budget]`.

Per task: a job tunes with the eager back end; `retarget` makes from its evidence a record for the
Inductor back end; another job tunes for that from nothing. The two picks and the baseline are then
timed in turns on the same prompts. With it, how far predicted speeds are from those measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import torch
from _measure import write_results
from rich.console import Console
from rich.table import Table

import dllmc
from dllmc.autotune import retarget, tune
from dllmc.autotune.job import describe
from dllmc.policies.config import SPEED_BASELINE
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine

BATCH, ROUNDS = 16, 15


def ratios(engine: Engine, task: str, configs: dict[str, DecodingConfig]) -> dict[str, float]:
    """Median speeds as multiples of the baseline's, timed in turns on test prompts."""
    found = get_task(task)
    prompts = [sample.prompt for sample in found.samples("test", 4 * BATCH, 0)]
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for turn in range(ROUNDS + 1):
        for name, config in configs.items():
            begun = time.perf_counter()
            engine.generate(
                prompts, config=config, max_new_tokens=found.max_new_tokens, batch=BATCH
            )
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    base = seconds["baseline"]
    return {
        name: statistics.median(b / own for b, own in zip(base, times, strict=True))
        for name, times in seconds.items()
    }


def measure(task: str, budget: str, model: Any) -> dict[str, Any]:
    """One row."""
    there = dllmc.compile(model, backend="eager").engine()
    here = dllmc.compile(model, backend="inductor").engine()
    with tempfile.TemporaryDirectory() as known, tempfile.TemporaryDirectory() as empty:
        first = tune(there, task, budget=budget, batch=BATCH, db=known, progress=None)
        begun = time.perf_counter()
        moved = retarget(here, task, batch=BATCH, db=known, progress=None)
        took = time.perf_counter() - begun
        anew = tune(here, task, budget=budget, batch=BATCH, db=empty, progress=None)
    picks = {"baseline": SPEED_BASELINE, "retargeted": moved.config, "tuned": anew.config}
    timed = ratios(here, task, picks)
    errors = [abs(item.error) for item in (*first.predictions, *moved.predictions)]
    errors += [abs(item.error) for item in anew.predictions]
    return {
        "task": task,
        "status": {"there": first.status, "retargeted": moved.status, "tuned": anew.status},
        "retargeted": describe(moved.config),
        "tuned": describe(anew.config),
        "tested_again": moved.tested_again,
        "retarget_seconds": took,
        "parts": moved.seconds,
        "tune_seconds": anew.spent,
        "retargeted_ratio": timed["retargeted"],
        "tuned_ratio": timed["tuned"],
        "retargeted/tuned": timed["retargeted"] / timed["tuned"],
        "prediction_errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["copy", "sort"])
    parser.add_argument("--budget", default="90s")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = dllmc.load_model("embedded")
    rows = [measure(task, arguments.budget, model) for task in arguments.tasks]
    table = Table(
        title="a pick for Inductor from the evidence of an eager job, and one tuned anew"
    )
    for column in ("task", "retargeted", "seconds", "tuned", "seconds", "speeds", "ratio"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["task"],
            row["retargeted"],
            f"{row['retarget_seconds']:.0f}",
            row["tuned"],
            f"{row['tune_seconds']:.0f}",
            f"{row['retargeted_ratio']:.2f}x, {row['tuned_ratio']:.2f}x",
            f"{row['retargeted/tuned']:.3f}",
        )
    Console(width=150).print(table)
    errors = [error for row in rows for error in row["prediction_errors"]]
    if errors:
        print(f"{len(errors)} predictions, median error {statistics.median(errors):.1%}")
    print(f"written to {write_results('retarget', rows)}")


if __name__ == "__main__":
    main()
