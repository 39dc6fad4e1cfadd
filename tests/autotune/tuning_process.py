"""A tuning job in a process of its own, to be killed: DATABASE LOG."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from planted_world import SPACE, PlantedEngine

from dllmc.autotune import tune

TRIALS = 14
BATCH = 64


def main(database: str, log: str) -> None:
    with Path(log).open("a", encoding="utf-8") as file:

        def write(config: str, prompts: list[str]) -> None:
            file.write(json.dumps([config, prompts]) + "\n")
            file.flush()

        engine = PlantedEngine(pause=0.002, log=write)
        report = tune(
            engine,
            "copy",
            budget=None,
            trials=TRIALS,
            batch=BATCH,
            db=database,
            space=SPACE,
            progress=None,
            clock=engine.clock,
        )
    print(json.dumps(report.to_json()))


if __name__ == "__main__":
    main(*sys.argv[1:])
