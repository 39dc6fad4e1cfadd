"""Timings in a process that has done nothing before: as it will be where a record is used.

A process that has searched holds the programs and caches of everything that it tried. What is
published is timed in a new one, which loads the model from an artifact.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from dllmc.artifact import Package, save_package
from dllmc.policies.config import DecodingConfig
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dllmc.runtime import Engine

_MODULE: Final = "dllmc.autotune.fresh_process"


class Decode(NamedTuple):
    """One batch decoded with one configuration.

    Attributes:
        round: Index of the round.
        config: Index of the configuration.
        seconds: That it took.
        tokens: Of all responses.
    """

    round: int
    config: int
    seconds: float
    tokens: int


def suits(engine: Engine) -> bool:
    """Whether a new process can be given what `engine` decodes with."""
    package: object = engine.package
    return isinstance(package, Package) and engine.auxiliary is None


def time_rounds(
    engine: Engine,
    configs: Sequence[DecodingConfig],
    compiled: Sequence[bool],
    batches: Sequence[Sequence[Sequence[int]]],
    max_new_tokens: int,
    rounds: int,
) -> Iterator[Decode]:
    """Decode a batch per round with every configuration, each round beginning with another one.

    Args:
        engine: As which the new process decodes.
        configs: Configurations.
        compiled: Whether each decides by a compiled function.
        batches: Token ids of the prompts of each batch; round n takes batch n, and begins again.
        max_new_tokens: Response length in tokens.
        rounds: At most; who has seen enough stops asking.

    Raises:
        TuningError: The process failed.
    """
    with tempfile.TemporaryDirectory(prefix="dllmc-timing-") as folder:
        artifact = Path(folder) / "model.dllm"
        save_package(engine.package, artifact)
        order = {
            "artifact": str(artifact),
            "backend": engine.backend,
            "device": str(engine.device),
            "capture": engine.captures,
            "look_every": engine.strides.look_every,
            "threads": torch.get_num_threads(),
            "configs": [config.canonical_json() for config in configs],
            "compiled": list(compiled),
            "batches": [[list(prompt) for prompt in batch] for batch in batches],
            "max_new_tokens": max_new_tokens,
            "rounds": rounds,
        }
        file = Path(folder) / "order.json"
        file.write_text(json.dumps(order), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                yield Decode(*json.loads(line))
            _, error = process.communicate()
            if process.returncode != 0:
                last = (error.strip() or "no output").splitlines()[-1]
                raise TuningError(f"timing in a new process failed: {last}")
        finally:
            process.kill()
            process.communicate()


def _serve(order: dict[str, Any]) -> None:
    from dllmc.runtime import Engine

    torch.set_num_threads(order["threads"])
    engine = Engine.load(
        order["artifact"],
        backend=order["backend"],
        device=order["device"],
        capture=order["capture"],
        look_every=order["look_every"],
    )
    configs = [DecodingConfig.from_json(text) for text in order["configs"]]
    length = order["max_new_tokens"]
    for index in range(order["rounds"] + 1):
        # The first round compiles, and is not timed.
        number = max(index - 1, 0)
        batch = order["batches"][number % len(order["batches"])]
        turn = number % len(configs)
        for which in [*range(turn, len(configs)), *range(turn)]:
            engine.selects.want(configs[which], order["compiled"][which])
            begun = time.perf_counter()
            out = engine.generate(
                batch, config=configs[which], max_new_tokens=length, batch=len(batch)
            )
            seconds = time.perf_counter() - begun
            if index:
                tokens = sum(map(len, out.tokens))
                print(json.dumps([number, which, seconds, tokens]), flush=True)


if __name__ == "__main__":
    _serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
