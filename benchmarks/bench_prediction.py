"""Speed predicted from steps against speed measured: `python benchmarks/bench_prediction.py`.

Per task and batch, configurations of different kinds are decoded once, which says what prompts
need. Their speeds, as multiples of the baseline's, are predicted from that and from the latencies
of plans, and measured end to end, all in turns.
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
from dllmc.autotune.cost import CostModel
from dllmc.autotune.evaluator import Evaluator, batches
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE
from dllmc.tasks import get_task
from dllmc.tuning_db import EvidenceStore, Store
from dllmc.tuning_db.plan_speed import PlanSpeedStore

if TYPE_CHECKING:
    from dllmc.runtime import Engine

_BASE = SPEED_BASELINE
CONFIGS = {
    "baseline": _BASE,
    "reference": QUALITY_REFERENCE,
    "prefix cache": _BASE.replace(cache={"kind": "prefix"}),
    "no cache": _BASE.replace(cache={"kind": "none"}),
    "dKV": _BASE.replace(cache={"kind": "dkv", "refresh_every": 4}),
    "Sparse": _BASE.replace(cache={"kind": "sparse"}),
    "threshold 0.7": _BASE.replace(commit={"kind": "threshold", "threshold": 0.7}),
    "factor": _BASE.replace(commit={"kind": "factor", "factor": 1.0}),
    "entropy bound": _BASE.replace(commit={"kind": "entropy_bound"}),
    "quota 4": _BASE.replace(commit={"kind": "quota", "steps": 4}),
    "blocks of 8": _BASE.replace(schedule={"kind": "blocks", "block_length": 8}),
    "credit": _BASE.replace(score={"kind": "credit"}),
    "self-speculation": _BASE.replace(
        commit={"kind": "quota"}, verify={"kind": "self_speculation"}
    ),
}
_BATCHES = 4


def measure(engine: Engine, name: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """One row per configuration."""
    task = get_task(name)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        evaluator = Evaluator(
            engine,
            task,
            max_new_tokens=task.max_new_tokens,
            batch=batch,
            evidence=EvidenceStore(store),
            clock=time.perf_counter,
        )
        prompts = batches(task.samples("tune", _BATCHES * batch, 0), batch)
        for config in CONFIGS.values():
            for group in prompts:
                evaluator.decode(config, group)
        model = CostModel(engine, evaluator.key, PlanSpeedStore(store), time.perf_counter)
        names = [group.ids for group in prompts]
        steps = {n: model.steps(evaluator.evidence(c), names) or [] for n, c in CONFIGS.items()}
        model.learn_plans(plan for found in steps.values() for plan in model.wants(found))
        lengths = [len(engine.encode(sample.prompt)) for sample in prompts[0].samples]
        predicted = {
            n: model.seconds(steps[n], model.learn_host(c, lengths)) for n, c in CONFIGS.items()
        }
        seconds: dict[str, list[float]] = {n: [] for n in CONFIGS}
        for _ in range(rounds):
            for n, config in CONFIGS.items():
                seconds[n].append(sum(evaluator.decode(config, group)[0] for group in prompts))
    rows = []
    for n in CONFIGS:
        pairs = zip(seconds["baseline"], seconds[n], strict=True)
        measured = statistics.median(base / own for base, own in pairs)
        said = predicted["baseline"] / predicted[n]
        rows.append(
            {
                "task": name,
                "batch": batch,
                "configuration": n,
                "predicted_seconds": predicted[n],
                "measured_seconds": statistics.median(seconds[n]),
                "predicted_ratio": said,
                "measured_ratio": measured,
                "error": said / measured - 1,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["sort"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="inductor")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    engine = dllmc.compile(dllmc.load_model("embedded"), backend=arguments.backend).engine()
    rows = [
        row
        for task in arguments.tasks
        for batch in arguments.batches
        for row in measure(engine, task, batch, arguments.rounds)
    ]
    table = Table(title=f"speed as a multiple of the baseline's, {arguments.backend}")
    for column in ("task", "batch", "", "predicted", "measured", "error"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["task"],
            str(row["batch"]),
            row["configuration"],
            f"{row['predicted_ratio']:.3f}",
            f"{row['measured_ratio']:.3f}",
            f"{row['error']:+.1%}",
        )
    Console().print(table)
    errors = [abs(row["error"]) for row in rows if row["configuration"] != "baseline"]
    print(f"{len(errors)} predictions: median error {statistics.median(errors):.1%}")
    print(f"written to {write_results('prediction', rows)}")


if __name__ == "__main__":
    main()
