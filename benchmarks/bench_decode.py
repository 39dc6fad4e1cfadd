"""Tokens per second, compiled against plain: `python benchmarks/bench_decode.py [--model ...]`.

The embedded model answers the same prompts of one task with the same schedule, commit and stop
rules: dllmc (Inductor, dual and prefix cache), dllmc without a cache, and the plain decoder of
`_plain.py`; and dllmc's reference decoder on a few of the prompts. Interleaved in one run;
response tokens count up to the end token.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from _measure import interleave, ratio, write_results
from _plain import decode
from rich.console import Console
from rich.table import Table

import dllmc
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from dllmc.models import LoadedModel
    from dllmc.runtime import Engine

BLOCK, THRESHOLD = 8, 0.9


def measure(
    loaded: LoadedModel,
    engines: dict[str, Engine],
    task: str,
    batch: int,
    prompts: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """One row per rival."""
    engine = engines["dllmc"]
    texts = [sample.prompt for sample in get_task(task).samples("test", prompts)]
    spec = loaded.spec
    padded = [spec.prepare_prompt(engine.encode(text), 32) for text in texts]
    base = dllmc.SPEED_BASELINE.replace(schedule={"kind": "blocks", "block_length": BLOCK})

    def plain() -> tuple[int, float]:
        tokens, evaluations = 0, 0
        for first in range(0, len(padded), batch):
            responses, forwards = decode(
                loaded.module, spec, padded[first : first + batch],
                max_new_tokens=32, block_length=BLOCK, threshold=THRESHOLD,
            )  # fmt: skip
            evaluations += forwards
            tokens += sum(_length(row.tolist(), spec.eos_ids) for row in responses)
        return tokens, evaluations

    def compiled(cache: str, by: Engine = engine) -> tuple[int, float]:
        config = base.replace(cache={"kind": cache})
        output = by.generate(texts, config=config, batch=batch)
        return sum(map(len, output.tokens)), sum(output.nfe)

    def reference() -> tuple[int, float]:
        tokens = [engine.encode(text) for text in texts[:2]]
        outputs = dllmc.reference.generate(loaded, tokens, base, max_new_tokens=32)
        return sum(len(o.tokens) for o in outputs), sum(o.nfe for o in outputs)

    rivals = {
        "dllmc, dual cache": partial(compiled, "dual"),
        "dllmc, prefix cache": partial(compiled, "prefix"),
        "dllmc, no cache": partial(compiled, "none"),
        **{
            f"{name}, dual cache": partial(compiled, "dual", other)
            for name, other in engines.items()
            if other is not engine
        },
        "plain": plain,
        "reference (2 prompts)": reference,
    }
    counts = {name: run() for name, run in rivals.items()}
    timings = interleave(rivals, rounds=rounds, warmup=1, device=engine.device.type)
    rows = []
    for name, timing in timings.items():
        tokens, _ = counts[name]
        speed = [tokens / seconds for seconds in (timing.median, *reversed(timing.spread()))]
        median, low, high = ratio(timings["plain"], timing)
        scale = tokens / counts["plain"][0]
        rows.append(
            {
                "task": task,
                "batch": batch,
                "rival": name,
                "tokens": tokens,
                "tokens_per_second": speed,
                "times_plain": [median * scale, low * scale, high * scale],
            }
        )
    return rows


def _length(tokens: list[int], eos_ids: tuple[int, ...]) -> int:
    return next((i + 1 for i, token in enumerate(tokens) if token in eos_ids), len(tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tasks", nargs="+", default=["copy", "shuffle"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    device = arguments.device
    loaded = dllmc.load_model(arguments.model, device=device)
    compiled = dllmc.compile(loaded, device=device)
    engine = compiled.engine()
    engines = {"dllmc": engine}
    if device == "cuda":
        engines["uncaptured"] = compiled.engine(capture=False)
        engines["eager"] = compiled.engine(backend="eager")
        selecting = engines["compiled select"] = compiled.engine()
        base = dllmc.SPEED_BASELINE.replace(schedule={"kind": "blocks", "block_length": BLOCK})
        selecting.specialise(configs=[base.replace(cache={"kind": "dual"})])
    where = f"{torch.get_num_threads()} threads" if device == "cpu" else engine.hardware.id
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for task in arguments.tasks:
            for batch in arguments.batches:
                prompts = min(arguments.prompts, 8 * batch)
                rows += measure(loaded, engines, task, batch, prompts, arguments.rounds)
    table = Table(title=f"block {BLOCK}, threshold {THRESHOLD}, {where}")
    for column in ("task", "batch", "rival", "tokens/s (quartiles)", "times plain (quartiles)"):
        table.add_column(column)
    for row in rows:
        speed, times = row["tokens_per_second"], row["times_plain"]
        table.add_row(
            row["task"], str(row["batch"]), row["rival"],
            f"{speed[0]:.0f} ({speed[1]:.0f}-{speed[2]:.0f})",
            f"{times[0]:.2f} ({times[1]:.2f}-{times[2]:.2f})",
        )  # fmt: skip
    Console(width=120).print(table)
    name = "decode" if device == "cpu" else f"decode-{where}"
    print(f"written to {write_results(name, rows, device)}")


if __name__ == "__main__":
    main()
