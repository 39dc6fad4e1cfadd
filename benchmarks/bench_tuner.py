"""The tuner against every configuration of a grid: `python benchmarks/bench_tuner.py [--seeds N]`.

Whole tuning jobs, the code that serves, over the grid that `bench_grid.py` has measured: the same
space, a tenth of its configurations as trials, answers and seconds from its tables. Beside them
random search and a plain TPE with as many trials on all tune prompts, of which each confirms the
fastest that kept the margin there; and each published setting. The share of the grid's best
confirmed speed that is reached; what is not confirmed counts as one token per step.

What a search asks that the grid did not decode (a slow configuration on confirm prompts, for
instance) is decoded then and kept.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import optuna
import torch
from _grid import MARGIN, PROMPTS, SPACE, TASKS, Table, configurations, differences
from _measure import write_results
from _replay import ReplayedEngine, ReplayedTask, scratch
from _studies import in_memory
from bench_grid import Recorder
from rich.console import Console
from rich.table import Table as Shown

import dllmc
from dllmc.autotune import search_space, tune
from dllmc.autotune.space import PRESETS
from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dllmc.runtime import Engine

TRIALS = len(configurations()) // 10


@dataclass(frozen=True)
class Run:
    """What a search came to.

    Attributes:
        rival: Who searched.
        config: What it ends with; `QUALITY_REFERENCE` where nothing was confirmed.
        confirmed: Whether something was.
        decoded: Prompts that it decoded, those of reference and baseline and confirmation too.
    """

    rival: str
    config: DecodingConfig
    confirmed: bool
    decoded: int


class Contest:
    """All searches on one task.

    Args:
        real: What the tables were measured with.
        task: Name of the task.
    """

    def __init__(self, real: Engine, task: str) -> None:
        self.table = Table(task)
        self.recorder = Recorder(real, self.table)
        self.task = ReplayedTask(self.table)
        self.spec = real.spec

    def engine(self, seed: int) -> ReplayedEngine:
        return ReplayedEngine(self.table, self.task, self.spec, self.recorder.extend, seed)

    def best(self) -> DecodingConfig:
        """The fastest of the grid that passes on all confirm prompts."""
        known = [
            config
            for config in configurations()
            if self.table.cell(config).judged["confirm"] == PROMPTS["confirm"]
        ]
        passed = [config for config in known if self.passes(config)]
        return min(passed, key=self.seconds)

    def seconds(self, config: DecodingConfig) -> float:
        return median(self.table.cell(config).seconds)

    def passes(self, config: DecodingConfig) -> bool:
        return self.recorder.passes(config)

    def loss(self, config: DecodingConfig, split: Any) -> float:
        """Share of right answers that it loses on a whole split."""
        return self._loss(config, split, PROMPTS[split])

    def known_loss(self, config: DecodingConfig) -> float:
        """The same on the tune prompts that the grid decoded: enough to see that it is too much.

        What is half as fast as the best is not judged in full either.
        """
        return self._loss(config, "tune", max(16, self.table.cell(config).judged["tune"]))

    def _loss(self, config: DecodingConfig, split: Any, count: int) -> float:
        cells = [self.recorder.extend(c, split, count) for c in (config, QUALITY_REFERENCE)]
        wins, losses = differences(cells[0], cells[1], split, count)
        return (losses - wins) / count

    def tuner(self, seed: int) -> Run:
        engine = self.engine(seed)
        with scratch() as folder:
            report = tune(
                engine,  # type: ignore[arg-type]
                self.task,
                margin=MARGIN,
                budget=None,
                trials=TRIALS,
                seed=seed,
                db=folder,
                space=SPACE,
                progress=None,
                clock=engine.clock,
            )
        confirmed = report.status == "confirmed"
        config = report.config if confirmed else QUALITY_REFERENCE
        return Run("dllmc tune", config, confirmed, engine.decoded)

    def simple(self, rival: str, sampler: optuna.samplers.BaseSampler, seed: int) -> Run:
        """A search over all tune prompts; its fastest within the margin is confirmed, or not."""
        space = search_space(self.spec, self.task.max_new_tokens, SPACE)
        searched = optuna.create_study(direction="maximize", sampler=sampler)
        engine = self.engine(seed)
        decoded = PROMPTS["tune"]  # of the reference
        found: dict[str, DecodingConfig] = {}
        for _ in range(TRIALS):
            trial = searched.ask()
            try:
                config = space.suggest(trial)
            except ConfigError:
                searched.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            if config.canonical_json() not in found:
                decoded += PROMPTS["tune"]
            lost = self.known_loss(config)
            found[config.canonical_json()] = config
            seconds = median(engine._random.choice(self.table.cell(config).seconds) for _ in "123")
            speed = -math.log(seconds)
            # A penalty that grows with the loss, as one would write by hand.
            searched.tell(trial, speed if lost <= MARGIN else speed - 10 * (1 + lost))
        feasible = [c for c in found.values() if self.known_loss(c) <= MARGIN]
        if not feasible:
            return Run(rival, QUALITY_REFERENCE, False, decoded)
        pick = min(feasible, key=self.seconds)
        decoded += 2 * PROMPTS["confirm"]
        passed = self.passes(pick)
        return Run(rival, pick if passed else QUALITY_REFERENCE, passed, decoded)

    def published(self) -> Iterator[Run]:
        for name, config in PRESETS.items():
            passed = self.passes(config)
            yield Run(name, config if passed else QUALITY_REFERENCE, passed, 0)

    def runs(self, seeds: int) -> Iterator[Run]:
        for seed in range(seeds):
            yield self.tuner(seed)
            yield self.simple("random search", optuna.samplers.RandomSampler(seed=seed), seed)
            yield self.simple("plain TPE", optuna.samplers.TPESampler(seed=seed), seed)
        yield from self.published()


def rows(contest: Contest, seeds: int) -> list[dict[str, Any]]:
    """One row per rival."""
    by_rival: dict[str, list[Run]] = {}
    for run in contest.runs(seeds):
        by_rival.setdefault(run.rival, []).append(run)
    contest.recorder.save()
    best = contest.best()
    grid = contest.table.environment["evaluations"]
    found = []
    for rival, runs in by_rival.items():
        shares = [contest.seconds(best) / contest.seconds(run.config) for run in runs]
        found.append(
            {
                "task": contest.task.name,
                "rival": rival,
                "runs": len(runs),
                "confirmed": sum(run.confirmed for run in runs),
                "share_mean": mean(shares),
                "share_median": median(shares),
                "share_least": min(shares),
                "decoded_mean": mean(run.decoded for run in runs),
                "decoded_of_grid": mean(run.decoded for run in runs) / grid,
                "loss_most": max(contest.loss(run.config, "confirm") for run in runs),
                "best": best.model_dump(mode="json"),
                "best_seconds": contest.seconds(best),
                "grid_decoded": grid,
            }
        )
    return found


def show(found: list[dict[str, Any]]) -> None:
    for task in dict.fromkeys(row["task"] for row in found):
        shown = Shown(title=f"{task}: share of the grid's best confirmed speed, {TRIALS} trials")
        for column in ("", "runs", "confirmed", "median", "mean", "least", "decoded of grid's"):
            shown.add_column(column)
        for row in (row for row in found if row["task"] == task):
            shown.add_row(
                row["rival"],
                str(row["runs"]),
                str(row["confirmed"]),
                f"{row['share_median']:.3f}",
                f"{row['share_mean']:.3f}",
                f"{row['share_least']:.3f}",
                f"{row['decoded_of_grid']:.1%}" if row["decoded_mean"] else "",
            )
        Console().print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    in_memory()
    real = dllmc.compile(dllmc.load_model("embedded"), backend="inductor").engine()
    found = []
    with torch.no_grad():
        for task in arguments.tasks:
            found += rows(Contest(real, task), arguments.seeds)
    show(found)
    print(f"written to {write_results('tuner', found)}")


if __name__ == "__main__":
    main()
