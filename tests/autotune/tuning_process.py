"""A tuning job in a process of its own, to be killed: DATABASE LOG [STORAGE [worker|front|exact]].

An empty STORAGE is the database's own. What `exact` does depends on nothing but what was done: its
time is the plan's, its timings are without noise, and it evaluates presets alone, whatever their
order.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from planted_world import SPACE, PlantedEngine

from dllmc.autotune import help_tune, tune
from dllmc.autotune.space import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable

TRIALS = 14
BATCH = 64


def trials_of(role: str) -> int:
    return len(PRESETS) if role == "exact" else TRIALS


def engine_of(role: str, log: Callable[[str, list[str]], None]) -> PlantedEngine:
    if role == "exact":
        return PlantedEngine(noise=0.0, log=log)
    # Helpers are slower, so that there is time to kill them.
    return PlantedEngine(pause=0.05 if role == "worker" else 0.002, log=log)


def main(database: str, log: str, storage: str | None = None, role: str = "") -> None:
    with Path(log).open("a", encoding="utf-8") as file:

        def write(config: str, prompts: list[str]) -> None:
            file.write(json.dumps([config, prompts]) + "\n")
            file.flush()

        helps, engine = role == "worker", engine_of(role, write)
        work = help_tune if helps else tune
        report = work(
            engine,
            "copy",
            # Takes a third of the prompts that 0.02 does: what is killed is the way there.
            margin=0.05,
            budget=None,
            trials=trials_of(role),
            batch=BATCH,
            db=database,
            storage=storage or None,
            pareto=role == "front",
            space=SPACE,
            progress=None,
            clock=engine.clock,
        )
    print(str(report) if helps else json.dumps(report.to_json()))


def into(report: str, *arguments: str) -> None:
    """`main`, with what it prints in a file."""
    with Path(report).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        main(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
