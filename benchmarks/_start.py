"""From `dllmc.load` to the first committed token in a fresh process: seconds, and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import json, sys, time
import torch
import dllmc, dllmc.runtime
torch.set_num_threads(1)

def private():
    text = open("/proc/self/smaps_rollup").read()
    kinds = ("Private_Dirty", "Private_Clean")
    return {k: int(text.split(k + ":")[1].split()[0]) * 1024 for k in kinds}

before = private()
begun = time.perf_counter()
engine = dllmc.load(sys.argv[1])
loaded = time.perf_counter()
pool, states = engine.open([[4, 5, 6, 7]], dllmc.SPEED_BASELINE, 32)
engine.step(pool, states)
done = time.perf_counter()
while engine.step(pool, states) is not None:
    pass
after = private()
print(json.dumps({"load": loaded - begun, "first": done - begun,
                  "dirty": after["Private_Dirty"] - before["Private_Dirty"],
                  "clean": after["Private_Clean"] - before["Private_Clean"]}))
"""


def start(artifact: Path, cache: Path) -> dict[str, float]:
    """What a fresh process says of its start."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", CHILD, str(artifact)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(ran.stdout)
    return found
