"""How often a record breaks its margin: `python benchmarks/bench_promise.py [--pareto]`.

Whole tuning jobs, the code that serves, in worlds whose true quality is known: an engine that
answers prompts of the task `copy` rightly with a probability that its configuration decides.
Losses of kinds, blocks and thresholds are drawn anew for every job, so that there are candidates
on both sides of the margin. A record promises, with an error of 5 %, that the true loss is less
than the margin; so do all records of a front together.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "autotune"))

from _measure import write_results
from _studies import in_memory
from planted_world import REFERENCE_QUALITY, SPACE, PlantedEngine, loss, uniform
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dllmc.autotune import tune

if TYPE_CHECKING:
    from collections.abc import Callable

    from dllmc.policies.config import DecodingConfig

MARGIN = 0.02


def world(seed: int) -> tuple[Callable[[DecodingConfig], float], float]:
    """The loss of configurations, and how often they differ from the reference for no reason."""
    rng = random.Random(seed)
    steepness = rng.choice((0.2, 0.5, 1.0, 2.0))
    most = rng.choice((0.0, 0.02, 0.04, 0.08))

    def lost(config: DecodingConfig) -> float:
        if config.commit.kind == "quota" and config.commit.steps is None:
            return 0.0
        kinds = (config.commit.kind, config.cache.kind, config.schedule.block_length)
        return min(0.9, steepness * loss(config) + most * uniform(seed, *kinds))

    return lost, rng.choice((0.002, 0.01, 0.03))


def true_loss(config: DecodingConfig, lost: float, discordance: float) -> float:
    """The expected difference of right answers, flips included."""
    if config.commit.kind == "quota" and config.commit.steps is None:
        return lost  # one token per step is never flipped, whatever the cache
    share = REFERENCE_QUALITY - lost
    return REFERENCE_QUALITY - (share * (1 - discordance) + (1 - share) * discordance)


def run(seed: int, *, pareto: bool) -> dict[str, Any]:
    """One job, and what the worst of its records truly loses."""
    lost, discordance = world(seed)
    engine = PlantedEngine(loss=lost, discordance=discordance)
    with tempfile.TemporaryDirectory() as folder:
        report = tune(
            engine,
            "copy",
            margin=MARGIN,
            budget=random.Random(seed + 1).choice((300, 600, 1200)),
            batch=64,
            trials=24,
            seed=seed,
            db=folder,
            space=SPACE,
            pareto=pareto,
            progress=None,
            clock=engine.clock,
        )
    kept = [row.config for row in report.front if row.keeps_margin] or [report.config]
    confirmed = report.status == "confirmed"
    truths = [true_loss(config, lost(config), discordance) for config in kept if confirmed]
    truth = max(truths, default=0.0)
    possible = [
        v.config
        for v in report.verdicts
        if true_loss(v.config, lost(v.config), discordance) < MARGIN / 4
    ]
    return {
        "seed": seed,
        "confirmed": confirmed,
        "loss": truth,
        "records": len(truths),
        "broken": confirmed and truth >= MARGIN,
        "tested": len(report.verdicts),
        "good_tested": bool(possible),
    }


def upper_bound(count: int, n: int, confidence: float = 0.95) -> float:
    """Exact (Clopper-Pearson) one-sided upper bound of a probability."""
    low, high = count / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(
            math.exp(
                math.lgamma(n + 1)
                - math.lgamma(k + 1)
                - math.lgamma(n - k + 1)
                + k * math.log(middle)
                + (n - k) * math.log1p(-middle)
            )
            for k in range(count + 1)
        )
        low, high = (middle, high) if below > 1 - confidence else (low, middle)
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first job")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pareto", action="store_true", help="fronts instead of single picks")
    arguments = parser.parse_args()
    begun = time.perf_counter()
    seeds = range(arguments.first, arguments.first + arguments.jobs)
    rows = []
    with ProcessPoolExecutor(arguments.workers, initializer=in_memory) as pool:
        jobs = pool.map(functools.partial(run, pareto=arguments.pareto), seeds, chunksize=5)
        for row in track(jobs, "jobs", total=len(seeds)):
            rows.append(row)
            if row["broken"]:
                print(row, file=sys.stderr)
    confirmed = [row for row in rows if row["confirmed"]]
    broken = [row for row in rows if row["broken"]]
    good = [row for row in rows if row["good_tested"]]
    result = {
        "jobs": len(rows),
        "margin": MARGIN,
        "fronts": arguments.pareto,
        "confirmed": len(confirmed),
        "records": sum(row["records"] for row in rows),
        "safe": len(rows) - len(confirmed),
        "broken": len(broken),
        "broken_share": len(broken) / len(rows),
        "broken_share_upper_95": upper_bound(len(broken), len(rows)),
        "broken_of_confirmed": len(broken) / max(1, len(confirmed)),
        "largest_loss": max((row["loss"] for row in confirmed), default=0.0),
        "good_tested": len(good),
        "good_tested_confirmed": sum(row["confirmed"] for row in good),
        "seconds": time.perf_counter() - begun,
    }
    table = Table(title=f"{len(rows)} tuning jobs, margin {MARGIN:g}, stated error 5 %")
    for column in ("", "value"):
        table.add_column(column)
    for name, value in result.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
    name = "promise-fronts" if arguments.pareto else "promise"
    print(f"written to {write_results(name, [result])}")


if __name__ == "__main__":
    main()
