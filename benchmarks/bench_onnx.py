"""ONNX programs in ONNX Runtime: `python benchmarks/bench_onnx.py [--models ...] [--rounds N]`.

Steps: the latency of a window step and of a full pass in one process, interleaved: ONNX Runtime
(caches written in place, and copied back), Inductor, and node by node.

Start: from `dllmc.load` to the first committed token, each time in a fresh process that has
imported torch and dllmc, and how much memory the process then takes more than before.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import onnxruntime
import torch
from _measure import interleave, ratio, write_results
from _start import start
from rich.console import Console
from rich.table import Table

import dllmc
from dllmc.runtime.programs import EagerPrograms, InductorPrograms, OnnxPrograms
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import StepPlan

if TYPE_CHECKING:
    from dllmc.artifact import Package

# Slots of the canvas, and rows of a window.
MODELS = {"embedded": (64, 32), "random:llada-60m": (320, 32)}
CPU = torch.device("cpu")


def steps(model: str, packages: dict[str, Package], rounds: int) -> list[dict[str, Any]]:
    """One row per plan and way to run it."""
    slots, window = MODELS[model]
    copying = OnnxPrograms(packages["onnxruntime"], CPU)
    ways = {
        "onnxruntime": OnnxPrograms(packages["onnxruntime"], CPU),
        "onnxruntime, caches copied": copying,
        "inductor": InductorPrograms(packages["inductor"], CPU),
        "eager": EagerPrograms(packages["inductor"]),
    }
    found = []
    for name, rows in {"window": window, "full pass": slots}.items():
        plan = StepPlan(batch=1, rows=rows, head_rows=window, slots=slots)
        inputs = {way: example_inputs(each.graph(plan), plan, CPU) for way, each in ways.items()}
        with torch.no_grad():
            copying.run(plan, inputs["onnxruntime, caches copied"])
            for session in copying._sessions.values():
                session._in_place = False
            rivals = {way: partial(ways[way].run, plan, inputs[way]) for way in ways}
            timings = interleave(rivals, rounds=rounds)
        found += [
            {
                "plan": name,
                "way": way,
                "ms": timing.median * 1e3,
                "spread_ms": [value * 1e3 for value in timing.spread()],
                "of_inductor": ratio(timing, timings["inductor"]),
            }
            for way, timing in timings.items()
        ]
    return found


def starts(packages: dict[str, Path], cache: Path, rounds: int) -> list[dict[str, Any]]:
    """One row per way to start; Inductor's cache is filled."""
    for path in packages.values():
        start(path, cache)
    found = {way: [start(path, cache) for _ in range(rounds)] for way, path in packages.items()}
    return [
        {
            "way": way,
            **{key: median(value[key] for value in values) for key in values[0]},
            "first_least": min(value["first"] for value in values),
            "first_most": max(value["first"] for value in values),
        }
        for way, values in found.items()
    ]


def measure(model: str, rounds: int) -> dict[str, Any]:
    """All of one model."""
    make = partial(dllmc.compile, model, plans=[dllmc.SPEED_BASELINE])
    compiled = {way: make(backend=way) for way in ("onnxruntime", "inductor")}
    packages = {way: each.package for way, each in compiled.items()}
    with tempfile.TemporaryDirectory() as folder:
        saved = {way: each.save(Path(folder) / way) for way, each in compiled.items()}
        begun = starts(saved, Path(folder) / "cache", rounds)
        models = sum(file.stat().st_size for file in saved["onnxruntime"].glob("*.onnx"))
        weights = (saved["onnxruntime"] / "weights.safetensors").stat().st_size
    return {
        "model": model,
        "onnxruntime": onnxruntime.__version__,
        "models_bytes": models,
        "weights_bytes": weights,
        "start": begun,
        "step": steps(model, packages, 20 * rounds),
    }


def show(row: dict[str, Any]) -> None:
    shown = Table(title=f"{row['model']}: a step")
    for column in ("plan", "", "ms", "quartiles", "of Inductor's time"):
        shown.add_column(column)
    for step in row["step"]:
        low, high = step["spread_ms"]
        times = (f"{step['ms']:.2f}", f"{low:.2f} {high:.2f}", f"{step['of_inductor'][0]:.2f}")
        shown.add_row(step["plan"], step["way"], *times)
    Console().print(shown)
    shown = Table(title=f"{row['model']}: from load to the first token, in a fresh process")
    for column in ("", "seconds", "least to most", "dirty MB", "clean MB"):
        shown.add_column(column)
    for way in row["start"]:
        shown.add_row(
            way["way"],
            f"{way['first']:.2f}",
            f"{way['first_least']:.2f} to {way['first_most']:.2f}",
            f"{way['dirty'] / 1e6:.0f}",
            f"{way['clean'] / 1e6:.0f}",
        )
    Console().print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(model, arguments.rounds) for model in arguments.models]
    for row in rows:
        show(row)
    print(f"written to {write_results('onnx', rows)}")


if __name__ == "__main__":
    main()
