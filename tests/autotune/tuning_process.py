"""A tuning job in a process of its own, to be killed: DATABASE LOG [STORAGE [worker|front]].

An empty STORAGE is the database's own.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from planted_world import SPACE, PlantedEngine

from dllmc.autotune import help_tune, tune

TRIALS = 14
BATCH = 64


def main(database: str, log: str, storage: str | None = None, role: str = "") -> None:
    with Path(log).open("a", encoding="utf-8") as file:

        def write(config: str, prompts: list[str]) -> None:
            file.write(json.dumps([config, prompts]) + "\n")
            file.flush()

        # Helpers are slower, so that there is time to kill them.
        helps = role == "worker"
        engine = PlantedEngine(pause=0.05 if helps else 0.002, log=write)
        work = help_tune if helps else tune
        report = work(
            engine,
            "copy",
            # Takes a third of the prompts that 0.02 does: what is killed is the way there.
            margin=0.05,
            budget=None,
            trials=TRIALS,
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
