"""Step latency against its floor: `python benchmarks/bench_steps.py [--models ...] [--rounds N]`.

Per model and plan, interleaved in one run: the compiled step (Inductor, dynamic shapes), the
same graph run eagerly, the floor (the step's matrix products alone, the linear ones and those of
attention, on a CPU with packed weights and on a GPU in one captured graph), and the model's plain
full-canvas forward. `--device cuda --dtype bfloat16` measures a GPU.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from _floor import product_runner
from _measure import interleave, ratio, write_results
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import dllmc
from dllmc.runtime.hardware import detect_hardware
from dllmc.runtime.programs import (
    CapturedPrograms,
    EagerPrograms,
    InductorPrograms,
    cache_shapes,
)
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import StepPlan

# Model, canvas length, and the rows of a refresh and of a window.
PLANS = {
    "embedded": [(64, 64, 8), (64, 8, 8), (64, 32, 32)],
    "random:llada-7m": [(320, 320, 32), (320, 32, 32)],
    "random:llada-60m": [(320, 320, 32), (320, 32, 32)],
    "random:llada-1b": [(1024, 1024, 32), (1024, 32, 32)],
    "random:llada-8b": [(1024, 1024, 32), (1024, 32, 32)],
}
# The others are for a GPU; the largest takes 16 GB of its memory in bfloat16, and minutes to draw.
USUAL = ["embedded", "random:llada-7m", "random:llada-60m"]


def measure(
    model: str, rounds: int, name: str = "cpu", dtype: torch.dtype | None = None
) -> list[dict[str, object]]:
    """One row per plan of `model`."""
    loaded = dllmc.load_model(model, device=name, dtype=dtype)
    package = dllmc.compile(loaded, device=name).package
    graph = package.graphs["greedy"]
    device = torch.device(name)
    inductor, eager = InductorPrograms(package, device), EagerPrograms(package)
    # On a GPU what is deployed is the captured step.
    deployed = CapturedPrograms(InductorPrograms(package, device)) if name == "cuda" else inductor
    rows: list[dict[str, object]] = []
    for canvas, width, head_rows in PLANS[model]:
        plan = StepPlan(
            batch=1, rows=width, head_rows=head_rows, slots=canvas, dtype=package.dtype
        )
        inputs = example_inputs(graph, plan, device)
        inputs["key_limit"].fill_(canvas)
        shapes, dtype_of = cache_shapes(graph), getattr(torch, package.dtype)
        inputs |= deployed.caches(1, shapes, plan.slots + plan.scratch, dtype_of, device)
        tokens = torch.zeros(1, canvas, dtype=torch.int64, device=device)
        uncaptured = {"uncaptured step": partial(inductor.run, plan, inputs)}
        timings = interleave(
            {
                "step": partial(deployed.run, plan, inputs),
                **(uncaptured if name == "cuda" else {}),
                "floor": product_runner(graph, plan),
                "linear floor": product_runner(graph, plan, attention=False),
                "eager step": partial(eager.run, plan, inputs),
                "plain forward": partial(loaded.module, tokens),
            },
            rounds=rounds,
            device=name,
        )
        row: dict[str, object] = {"model": model, "canvas": canvas, "rows": width}
        for rival, timing in timings.items():
            row[rival] = {
                "median_ms": timing.median * 1e3,
                "quartiles_ms": [q * 1e3 for q in timing.spread()],
            }
        for base in ("floor", "linear floor", "plain forward"):
            row[f"step/{base}"] = ratio(timings["step"], timings[base])
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=USUAL, choices=list(PLANS))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    rows: list[dict[str, object]] = []
    with torch.no_grad(), Progress() as progress:
        for model in progress.track(arguments.models, description="models"):
            rows += measure(model, arguments.rounds, device, getattr(torch, arguments.dtype))
    where = f"{arguments.threads}-threads"
    if device != "cpu":
        where = f"{detect_hardware(torch.device(device)).id}-{arguments.dtype}"
    table = Table(title=f"milliseconds per step, median (quartiles), {where}")
    names = ["step", "floor", "linear floor", "eager step", "plain forward"]
    if device == "cuda":
        names.insert(1, "uncaptured step")
    for column in ("model", "canvas", "rows", *names, "step/floor", "step/linear floor"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        cells = [str(row[key]) for key in ("model", "canvas", "rows")]
        cells += [_milliseconds(row[name]) for name in names]
        cells += [f"{row[key][0]:.2f}" for key in ("step/floor", "step/linear floor")]  # type: ignore[index]
        table.add_row(*cells)
    Console(width=150).print(table)
    print(f"written to {write_results(f'steps-{where}', rows, device)}")


def _milliseconds(timing: object) -> str:
    assert isinstance(timing, dict)
    low, high = timing["quartiles_ms"]
    return f"{timing['median_ms']:.2f} ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
