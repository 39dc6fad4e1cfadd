"""Every configuration of a grid: `python benchmarks/bench_grid.py [--tasks ...] [--minutes N]`.

335 configurations of the embedded model on four tasks: three rules of committing with their
values, five caches and four block lengths. Each decodes the tune prompts until it is clearly too
lossy (the tuner's own race) or not half as fast as the fastest that is not; then, from the fastest
down, all confirm prompts, until `--confirmed` have passed the tuner's test. `bench_tuner.py`
compares searches with what is known then. Seconds are processor time of one thread, which other
work on the machine changes little.

Files stand in benchmarks/grid and are whole at any moment; a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import TYPE_CHECKING

import torch
from _grid import BATCH, MARGIN, PROMPTS, TASKS, Table, configurations, differences, digest
from _measure import environment
from rich.console import Console

import dllmc
from dllmc.autotune import noninferiority
from dllmc.autotune.racing import Race
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig

if TYPE_CHECKING:
    from _grid import Cell

    from dllmc.runtime import Engine
    from dllmc.tasks import Split

# Batches of a configuration that are timed at least.
_TIMED = 3


class Recorder:
    """Decodes for a table what it does not know.

    Args:
        engine: What decodes.
        table: Of one task.
    """

    def __init__(self, engine: Engine, table: Table) -> None:
        self.engine = engine
        self.table = table
        self._samples = {split: table.samples(split) for split in PROMPTS}
        self._saved = time.monotonic()

    def extend(self, config: DecodingConfig, split: Split, count: int) -> Cell:
        """What `config` does with the first prompts of a split."""
        cell = self.table.cell(config)
        task = self.table.task
        while cell.judged[split] < count:
            first = cell.judged[split]
            part = self._samples[split][first : first + BATCH]
            prompts, compiled = [sample.prompt for sample in part], -1
            while compiled != (compiled := getattr(self.engine.programs, "compiled", 0)):
                begun = time.process_time()
                output = self.engine.generate(
                    prompts, config=config, max_new_tokens=task.max_new_tokens, batch=len(part)
                )
                seconds = time.process_time() - begun
            assert output.text is not None
            for index, (sample, text) in enumerate(zip(part, output.text, strict=True), first):
                if not task.score(sample, text):
                    cell.wrong[split][index] = digest(text)
            cell.judged[split] += len(part)
            cell.seconds.append(seconds / len(part))
            cell.nfe.append(round(sum(output.nfe) / len(part), 3))
        if time.monotonic() - self._saved > 20:
            self.save()
        return cell

    def save(self) -> None:
        self.table.save()
        self._saved = time.monotonic()

    def race(self, config: DecodingConfig, best: float) -> bool:
        """Whether `config` keeps its quality on the tune prompts; so far as it is of interest.

        Args:
            config: It.
            best: Seconds per prompt of the fastest so far that does.
        """
        reference = self.extend(QUALITY_REFERENCE, "tune", PROMPTS["tune"])
        race = Race(MARGIN)
        right = reference.right("tune", PROMPTS["tune"])
        for first in range(0, PROMPTS["tune"], BATCH):
            cell = self.extend(config, "tune", first + BATCH)
            own = cell.right("tune", first + BATCH)
            for index in range(first, first + BATCH):
                race.update(right[index], own[index])
            timed = len(cell.seconds) >= _TIMED
            if timed and (race.lost or median(cell.seconds) > 2 * best):
                return False
        return race.loss <= MARGIN

    def passes(self, config: DecodingConfig) -> bool:
        """Whether `config` passes the tuner's test on the confirm prompts."""
        count = PROMPTS["confirm"]
        reference = self.extend(QUALITY_REFERENCE, "confirm", count)
        wins, losses = differences(
            self.extend(config, "confirm", count), reference, "confirm", count
        )
        return noninferiority.p_value(wins, losses, count, MARGIN) <= noninferiority.ALPHA


def record(recorder: Recorder, confirmed: int, deadline: float) -> str:
    """Measure the grid on one task; what is to be said of it."""
    table, best = recorder.table, float("inf")
    feasible: list[tuple[float, DecodingConfig]] = []
    recorder.extend(SPEED_BASELINE, "tune", PROMPTS["tune"])
    everything = configurations()
    for number, config in enumerate(everything):
        if time.monotonic() > deadline:
            recorder.save()
            return f"{table.task.name}: {number} of {len(everything)} so far; run again"
        if recorder.race(config, best):
            seconds = median(table.cell(config).seconds)
            feasible.append((seconds, config))
            best = min(best, seconds)
    passed: list[DecodingConfig] = []
    tested = 0
    for _, config in sorted(feasible, key=lambda pair: pair[0]):
        if len(passed) == confirmed or time.monotonic() > deadline:
            break
        tested += 1
        if recorder.passes(config):
            passed.append(config)
    recorder.save()
    return (
        f"{table.task.name}: {len(everything)} configurations, {len(feasible)} kept the margin on "
        f"tune prompts, {len(passed)} of the {tested} fastest of them on confirm prompts"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--confirmed", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    deadline = time.monotonic() + 60 * arguments.minutes
    engine = dllmc.compile(dllmc.load_model("embedded"), backend="inductor").engine()
    for name in arguments.tasks:
        table = Table(name)
        decoded = table.environment.get("evaluations")
        table.environment = {**environment(), "weights": engine.weights_sha256}
        with torch.no_grad():
            Console().print(record(Recorder(engine, table), arguments.confirmed, deadline))
        # What `bench_tuner.py` decodes later does not count.
        table.environment["evaluations"] = decoded or sum(
            count for cell in table.cells.values() for count in cell.judged.values()
        )
        table.save()


if __name__ == "__main__":
    main()
