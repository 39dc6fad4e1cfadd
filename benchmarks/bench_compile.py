"""Compile time against depth: `python benchmarks/bench_compile.py [--quick]`.

Models of the width of `random:llada-7m`, of few and of many layers, compiled for a greedy step of
batch 1 with dynamic shapes: as one graph, and with layers that are the same compiled once. Each
compilation runs in a process of its own with an empty Inductor cache. What such a process pays
for any graph is not counted, since it would flatter the ratio: imports, and the first use of the
C++ compiler (its headers, about as long as the rest). Tracing the model and the passes are not
counted either. Then the step latency of both, in one process, interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from _measure import interleave, ratio, write_results
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.fx import Graph, GraphModule

import dllmc
from dllmc.models import shapes
from dllmc.runtime.programs import EagerPrograms, InductorPrograms
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import StepPlan

if TYPE_CHECKING:
    from dllmc.artifact import Package

DEPTHS = (4, 24)
WAYS = {"one graph": False, "layers once": True}
SLOTS, HEAD_ROWS = 320, 32
LATENCY = {"random:llada-7m": (32, 320), "random:llada-60m": (32, 320)}
CPU = torch.device("cpu")


def package_of(layers: int) -> Package:
    """A compiled package, not yet through Inductor, of a model of 7 M's width."""
    name = f"llada-7m-{layers}-layers"
    shapes.SHAPES[name] = shapes.SHAPES["llada-7m"] | {"n_layers": layers}
    return dllmc.compile(dllmc.load_model(f"random:{name}")).package


def plan_of(rows: int) -> StepPlan:
    return StepPlan(batch=1, rows=rows, head_rows=HEAD_ROWS, slots=SLOTS)


def compile_once(layers: int, *, layers_once: bool) -> dict[str, float]:
    """Seconds until the first step has run, in this process, and until a trivial graph has."""
    package = package_of(layers)
    begun = time.perf_counter()
    from dllmc.runtime.programs._compile_graph import compile_graph

    graph = Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(torch.ops.aten.exp.default, (x,)),))
    x = torch.ones(256)
    compile_graph(GraphModule({}, graph), {"x": x}, {})[0](x)
    started = time.perf_counter()
    programs = InductorPrograms(package, CPU, layers_once=layers_once)
    programs.run(plan_of(32), example_inputs(package.graphs["greedy"], plan_of(32), CPU))
    return {"seconds": time.perf_counter() - started, "before": started - begun}


def compile_cold(layers: int, way: str) -> dict[str, float]:
    """The same in a process of its own with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}
        command = [sys.executable, __file__, "--compile", str(layers), way]
        run = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return result


def measure_compilation(progress: Progress) -> list[dict[str, Any]]:
    todo = [(layers, way) for layers in DEPTHS for way in WAYS]
    found = {}
    for layers, way in progress.track(todo, description="compile, cold"):
        found[layers, way] = compile_cold(layers, way)
    few, many = DEPTHS
    rows = []
    for way in WAYS:
        row: dict[str, Any] = {"what": "compile", "way": way}
        row |= {f"{layers} layers": found[layers, way] for layers in DEPTHS}
        seconds = [found[layers, way]["seconds"] for layers in (many, few)]
        rows.append(row | {"ratio": seconds[0] / seconds[1]})
    return rows


def check(package: Package, programs: InductorPrograms, rows: int) -> None:
    """Both ways decide as the graph run node by node does."""
    inputs = example_inputs(package.graphs["greedy"], plan_of(rows), CPU)
    inputs["key_limit"].fill_(SLOTS)
    expected = EagerPrograms(package).run(plan_of(rows), inputs)
    found = programs.run(plan_of(rows), inputs)
    assert torch.equal(found[0], expected[0])
    for new, old in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-4)


def measure_latency(model: str, widths: tuple[int, ...], rounds: int) -> list[dict[str, Any]]:
    package = dllmc.compile(dllmc.load_model(model)).package
    ways = {way: InductorPrograms(package, CPU, layers_once=once) for way, once in WAYS.items()}
    rows = []
    for width in widths:
        for programs in ways.values():
            check(package, programs, width)
        inputs = example_inputs(package.graphs["greedy"], plan_of(width), CPU)
        inputs["key_limit"].fill_(SLOTS)
        steps = {way: partial(p.run, plan_of(width), inputs) for way, p in ways.items()}
        timings = interleave(steps, rounds=rounds)
        row: dict[str, Any] = {"what": "step", "model": model, "rows": width}
        for way, timing in timings.items():
            quartiles = [q * 1e3 for q in timing.spread()]
            row[way] = {"median_ms": timing.median * 1e3, "quartiles_ms": quartiles}
        rows.append(row | {"layers once/one graph": ratio(*reversed(timings.values()))})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small models, fewer rounds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", nargs=2, metavar=("LAYERS", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.compile:
        layers, way = arguments.compile
        print(json.dumps(compile_once(int(layers), layers_once=WAYS[way])))
        return
    models = dict(list(LATENCY.items())[:1]) if arguments.quick else LATENCY
    with torch.no_grad(), Progress(transient=True) as progress:
        compiled = measure_compilation(progress)
        steps: list[dict[str, Any]] = []
        for model in progress.track(models, description="step latency"):
            steps += measure_latency(model, models[model], 20 if arguments.quick else 40)
    show(compiled, steps)
    command = "python benchmarks/bench_compile.py" + " --quick" * arguments.quick
    print(f"written to {write_results('compile', [{'command': command}, *compiled, *steps])}")


def show(compiled: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    console = Console(width=110)
    depths = [f"{layers} layers" for layers in DEPTHS]
    table = Table("way", *depths, "ratio", title="seconds to compile (and before, for any graph)")
    for row in compiled:
        times = ["{seconds:.1f} ({before:.1f})".format(**row[depth]) for depth in depths]
        table.add_row(row["way"], *times, f"{row['ratio']:.2f}")
    console.print(table)
    table = Table("model", "rows", *WAYS, "ratio", title="milliseconds per step (quartiles)")
    for row in steps:
        times = [
            "{:.2f} ({:.2f}-{:.2f})".format(row[way]["median_ms"], *row[way]["quartiles_ms"])
            for way in WAYS
        ]
        quotient = "{:.3f} ({:.3f}-{:.3f})".format(*row["layers once/one graph"])
        table.add_row(row["model"], str(row["rows"]), *times, quotient)
    console.print(table)


if __name__ == "__main__":
    main()
