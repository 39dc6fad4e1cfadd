"""Ahead-of-time artifacts: `python benchmarks/bench_aot.py [--models ...] [--rounds N]`.

Start: from `dllmc.load` to the first committed token, each time in a fresh process that has
imported torch and dllmc: ahead-of-time programs, Inductor with an empty cache and with a filled
one, and node by node. Beside it how much memory the process then takes more than before.

Steps: the latency of a window step in one process, interleaved: ahead of time for x86-64-v3 and
for this processor, with weights packed for oneDNN (the default) and without, and Inductor.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from _measure import interleave, ratio, write_results
from _start import start
from rich.console import Console
from rich.table import Table

import dllmc
from dllmc.runtime.programs import AotPrograms, InductorPrograms
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import StepPlan

if TYPE_CHECKING:
    from dllmc.compiler import CompiledModel

# Slots of a window step, and its rows.
MODELS = {"embedded": (64, 32), "random:llada-60m": (320, 32)}
PLAIN = {"lower_operators": {"implementations": {"experts": "sorted"}}}
CPU = torch.device("cpu")


def starts(folder: Path, artifacts: dict[str, Path], rounds: int) -> list[dict[str, Any]]:
    """One row per way to start."""
    filled = folder / "filled"
    start(artifacts["inductor"], filled)
    ways = {
        "aot": lambda _: start(artifacts["aot"], filled),
        "inductor, filled cache": lambda _: start(artifacts["inductor"], filled),
        "eager": lambda _: start(artifacts["eager"], filled),
        "inductor, empty cache": lambda n: start(artifacts["inductor"], folder / f"empty-{n}"),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            # What compiles takes half a minute, and its spread is small beside the rest.
            if "empty" not in name or number < max(2, rounds // 4):
                found[name].append(way(number))
    return [
        {
            "way": name,
            "rounds": len(values),
            **{key: median(value[key] for value in values) for key in values[0]},
            "first_least": min(value["first"] for value in values),
            "first_most": max(value["first"] for value in values),
        }
        for name, values in found.items()
    ]


def steps(model: str, compiled: dict[str, CompiledModel], rounds: int) -> list[dict[str, Any]]:
    """One row per way to run a window step."""
    slots, rows = MODELS[model]
    plan = StepPlan(batch=1, rows=rows, head_rows=rows, slots=slots)
    programs = {
        name: (InductorPrograms if name == "inductor" else AotPrograms)(each.package, CPU)
        for name, each in compiled.items()
    }
    inputs = {name: example_inputs(each.graph(plan), plan, CPU) for name, each in programs.items()}
    timings = interleave(
        {name: partial(each.run, plan, inputs[name]) for name, each in programs.items()},
        rounds=rounds,
    )
    return [
        {
            "way": name,
            "ms": timing.median * 1e3,
            "spread_ms": [value * 1e3 for value in timing.spread()],
            "of_inductor": ratio(timing, timings["inductor"]),
        }
        for name, timing in timings.items()
    ]


def measure(model: str, rounds: int) -> dict[str, Any]:
    """All of one model."""
    make = partial(dllmc.compile, model, plans=[dllmc.SPEED_BASELINE])
    compiled = {
        "aot": make(backend="aot"),
        "aot, native": make(backend="aot", target="native"),
        "aot, not packed": make(backend="aot", passes=PLAIN),
        "inductor": make(backend="inductor"),
    }
    with tempfile.TemporaryDirectory() as folder:
        saved = {name: each.save(Path(folder) / name) for name, each in compiled.items()}
        saved["eager"] = make(backend="eager").save(Path(folder) / "eager")
        begun = starts(Path(folder), saved, rounds)
        unpacked = start(saved["aot, not packed"], Path(folder) / "filled")
        size = sum(f.stat().st_size for f in saved["aot"].rglob("*") if f.is_file())
        weights = (saved["aot"] / "weights.safetensors").stat().st_size
    return {
        "model": model,
        "artifact_bytes": size,
        "weights_bytes": weights,
        "start": begun,
        "not_packed": unpacked,
        "step": steps(model, compiled, 20 * rounds),
    }


def show(row: dict[str, Any]) -> None:
    shown = Table(title=f"{row['model']}: from load to the first token, in a fresh process")
    for column in ("", "seconds", "least to most", "of it load", "dirty MB", "clean MB"):
        shown.add_column(column)
    for way in row["start"]:
        shown.add_row(
            way["way"],
            f"{way['first']:.2f}",
            f"{way['first_least']:.2f} to {way['first_most']:.2f}",
            f"{way['load']:.2f}",
            f"{way['dirty'] / 1e6:.0f}",
            f"{way['clean'] / 1e6:.0f}",
        )
    Console().print(shown)
    shown = Table(title=f"{row['model']}: a window step")
    for column in ("", "ms", "quartiles", "of Inductor's time"):
        shown.add_column(column)
    for way in row["step"]:
        low, high = way["spread_ms"]
        shown.add_row(
            way["way"], f"{way['ms']:.2f}", f"{low:.2f} {high:.2f}", f"{way['of_inductor'][0]:.2f}"
        )
    Console().print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(model, arguments.rounds) for model in arguments.models]
    for row in rows:
        show(row)
    print(f"written to {write_results('aot', rows)}")


if __name__ == "__main__":
    main()
