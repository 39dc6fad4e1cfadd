"""Steps and decodes of an 8 B denoiser on a GPU, against their floors: one run, some minutes.

    python benchmarks/gpu/measure.py [--model random:llada-8b] [--quick | --sweep]

Weights are random, so texts mean nothing: schedules that commit a fixed number of tokens per step
take as long as with trained ones. Rivals: the denoiser as it is written with the loop as published
(a whole-canvas forward and a float64 softmax per step), dllmc node by node, compiled, with
captured steps, and with captured strides. Writes `benchmarks/results/gpu-DEVICE.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import triton
from _kernels import product_rows, statistics_rows
from _measure import environment, interleave, ratio
from _published_loop import published_loop
from rich.console import Console
from rich.table import Table
from triton.testing import do_bench

import dllmc
from dllmc.artifact import weights_of
from dllmc.models import _random
from dllmc.runtime.programs.base import example_inputs
from dllmc.spec import StepPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from dllmc.runtime import Engine

BLOCK = 32


def drawn_on_gpu(name: str, shape: torch.Size, spec: Any, seed: int) -> torch.Tensor:
    """8 billion normal numbers take more than a minute on a CPU."""
    mean, deviation = _random._moments(name, shape, spec)
    generator = torch.Generator("cuda").manual_seed(_random._seed(seed, name))
    values = torch.empty(shape, device="cuda").normal_(generator=generator)
    return values.mul_(deviation).add_(mean)


def device_facts() -> dict[str, Any]:
    """What the device does at best, measured: the two ceilings."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copying = do_bench(lambda: target.copy_(source), return_mode="median")
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    product = do_bench(lambda: a @ b, return_mode="median")
    query = "clocks.sm,clocks.mem,driver_version,power.draw"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    return {
        "copy_bytes_per_second": 2 * source.numel() / copying * 1e3,
        "bf16_flops": 2 * 8192**3 / product * 1e3,
        "triton": triton.__version__,
        "nvidia_smi": subprocess.run(command, capture_output=True, text=True).stdout.strip(),
        "nvidia_smi_query": query,
    }


def step_rows(
    name: str, engine: Engine, facts: dict[str, Any], sizes: list[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Block steps, captured: milliseconds beside reading weights and keys once."""
    found = []
    graph = engine.package.graphs["greedy"]
    weights = weights_of(graph)
    # Of an embedding's table a step reads a few rows.
    tables = {n.args[0].target for n in graph.graph.nodes if "embedding" in str(n.target)}
    read = sum(w.numel() * w.element_size() for n, w in weights.items() if n not in tables)
    for batch, slots in sizes:
        plan = StepPlan(
            batch=batch, rows=BLOCK, head_rows=BLOCK, slots=slots, scratch=1,
            statistics="greedy", mask="limit", dtype=engine.dtype,
        )  # fmt: skip
        plan = engine.programs.fit(plan)
        inputs = example_inputs(engine.programs.graph(plan), plan, engine.device)
        inputs["key_limit"] = torch.full_like(inputs["key_limit"], slots)
        caches = [value for name, value in inputs.items() if value.dim() == 4]
        for cache in caches:
            cache.normal_()
        tokens = torch.randint(0, 1000, inputs["tokens"].shape, device=engine.device)
        inputs["tokens"] = tokens
        inner = engine.programs.inner  # type: ignore[attr-defined]
        run = partial(inner.run, plan, inputs)
        run()
        replay, _ = engine.programs.capture(run)  # type: ignore[attr-defined]
        seconds = do_bench(replay, return_mode="all", rep=300)
        seconds = sorted(each / 1e3 for each in seconds)
        median = seconds[len(seconds) // 2]
        keys = sum(cache.numel() * cache.element_size() for cache in caches)
        # A product of n weights takes 2 n operations per row; a weight has two bytes.
        flop = read * batch * BLOCK
        floor = max((read + keys) / facts["copy_bytes_per_second"], flop / facts["bf16_flops"])
        found.append(
            {
                "kernels": name,
                "batch": batch,
                "rows": BLOCK,
                "slots": slots,
                "seconds": median,
                "quartiles": [seconds[len(seconds) // 4], seconds[3 * len(seconds) // 4]],
                "floor_seconds": floor,
                "times_floor": median / floor,
                "read_bytes": read + keys,
                "products_flop": flop,
                **kernels_of(replay),
            }
        )
        del inputs, caches, replay, run
        torch.cuda.empty_cache()
    return found


def kernels_of(call: Callable[[], Any], most: int = 12) -> dict[str, Any]:
    """Launches of a call, and the kernels that take longest, in microseconds."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    averages = profile.key_averages()
    on_device = [e for e in averages if e.device_type == torch.autograd.DeviceType.CUDA]
    longest = sorted(on_device, key=lambda event: -event.self_device_time_total)[:most]
    launches = {e.key: e.count for e in averages if e.key.startswith("cuda") and "aunch" in e.key}
    return {
        "device_launches": sum(event.count for event in on_device),
        "host_launches": launches,
        "kernels_longest": [[e.key[:90], e.count, e.self_device_time_total] for e in longest],
    }


def waits_of(call: Callable[[], Any]) -> int:
    """How often the host waits for the device in a call, by torch's own account."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def decode_rows(
    engines: dict[str, Engine], loaded: Any, batch: int, tokens: int, length: int
) -> list[dict[str, Any]]:
    """Whole decodes at a fixed schedule: tokens per second, interleaved."""
    found = []
    prompts = torch.randint(5, 1000, (batch, 128)).tolist()
    config = dllmc.SPEED_BASELINE.replace(
        schedule={"kind": "blocks", "block_length": BLOCK},
        commit={"kind": "quota", "steps": length // tokens},
        cache={"kind": "dual"},
        stop={"kind": "length"},
    )
    rivals: dict[str, Callable[[], Any]] = {
        name: partial(engine.generate, prompts, config=config, max_new_tokens=length, batch=batch)
        for name, engine in engines.items()
    }
    rivals["published loop, eager"] = partial(
        published_loop, loaded.module, loaded.spec, prompts, length, BLOCK, tokens
    )
    same = {name: rivals[name]().tokens for name in engines}
    timings = interleave(rivals, rounds=3, warmup=1, device="cuda")
    for name, timing in timings.items():
        found.append(
            {
                "batch": batch,
                "tokens_per_step": tokens,
                "rival": name,
                "tokens_per_second": batch * length / timing.median,
                "quartiles": [batch * length / s for s in reversed(timing.spread())],
                "times_published": ratio(timings["published loop, eager"], timing),
                "host_waits": waits_of(rivals[name]),
                "steps": length // tokens,
                "same_as_strides": same.get(name) == same["strides"],
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="random:llada-8b")
    parser.add_argument("--sweep", action="store_true", help="kernels alone, in many sizes")
    parser.add_argument("--quick", action="store_true", help="few sizes")
    parser.add_argument("--out", type=Path, help="where to write; beside the other results")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no NVIDIA GPU here, and nothing else is measured")
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s  {text}", flush=True)

    facts = device_facts()
    copy = facts["copy_bytes_per_second"]
    say(f"copy {copy / 1e12:.2f} TB/s, bf16 {facts['bf16_flops'] / 1e12:.0f} TFLOP/s")
    result: dict[str, Any] = {"environment": environment("cuda"), "device": facts}
    name = f"gpu-{result['environment']['hardware']['name']}".lower().replace(" ", "-")
    path = arguments.out or Path(__file__).parents[1] / "results" / f"{name}.json"

    def keep(part: str, rows: list[dict[str, Any]]) -> None:
        result[part] = rows
        path.write_text(json.dumps(result, indent=1) + "\n")
        say(f"{part}: {len(rows)} rows")

    keep("statistics", statistics_rows(copy, sweep=arguments.sweep))
    keep("products", product_rows(copy, sweep=arguments.sweep))
    if arguments.sweep:
        return
    with mock.patch.object(_random, "_draw", drawn_on_gpu):
        loaded = dllmc.load_model(arguments.model, dtype=torch.bfloat16, device="cuda")
    say("model drawn")
    # Hashing 16 GB of weights takes longer than all else that compiling does here.
    with mock.patch("dllmc.compiler.compiled.hash_weights", return_value="0" * 64):
        plain = {"lower_operators": {"implementations": {}}}
        kinds = {
            "torch": dllmc.compile(loaded, device="cuda", passes=plain),
            "triton": dllmc.compile(loaded, device="cuda"),
        }
    say("model captured and rewritten")
    sizes = [(1, 512), (8, 512)] if arguments.quick else [
        (1, 512), (1, 4096), (8, 512), (8, 2048), (32, 512)
    ]  # fmt: skip
    steps: list[dict[str, Any]] = []
    for kind, compiled in kinds.items():
        steps += step_rows(kind, compiled.engine(), facts, sizes)
        keep("steps", steps)
    compiled = kinds["triton"]
    engines = {
        "strides": compiled.engine(),
        "strides, no Triton": kinds["torch"].engine(),
        "captured steps": compiled.engine(look_every=1),
        "compiled steps": compiled.engine(capture=False, look_every=1),
        "node by node": compiled.engine(backend="eager", look_every=1),
    }
    cases = [(1, 4)] if arguments.quick else [(1, 4), (8, 4), (1, 1), (1, 2), (1, 8)]
    decodes: list[dict[str, Any]] = []
    for batch, tokens in cases:
        decodes += decode_rows(engines, loaded, batch, tokens, 64)
        keep("decodes", decodes)
    result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    keep("decodes", decodes)
    show(result)


def show(result: dict[str, Any]) -> None:
    console = Console(width=150)
    for part in ("statistics", "products", "steps", "decodes"):
        table = Table(title=part)
        names = [n for n, v in result[part][0].items() if not isinstance(v, dict | list | tuple)]
        for name in names:
            table.add_column(name)
        for row in result[part]:
            table.add_row(*(f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n])
                            for n in names))  # fmt: skip
        console.print(table)


if __name__ == "__main__":
    main()
