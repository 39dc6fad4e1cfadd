"""Decoding with strategies beside the speed baseline, and keeping what was measured."""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine
    from dllmc.tasks import Sample, Task


@dataclass
class Measured:
    """What one configuration did, batch by batch.

    Attributes:
        correct: Whether each response was right.
        nfe: Evaluations of each.
        tokens: Response tokens of each batch.
        seconds: Of each batch, of processor time: those of all threads of the process together.
    """

    correct: list[bool] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def exact(self) -> float:
        return statistics.mean(self.correct)

    @property
    def rate(self) -> float:
        """Response tokens per second."""
        return sum(self.tokens) / sum(self.seconds)

    def add(
        self, engine: Engine, task: Task, config: DecodingConfig, batch: Sequence[Sample]
    ) -> None:
        """Decode `batch`; again if that compiled something, which is not to be timed."""
        prompts, compiled = [sample.prompt for sample in batch], -1
        while compiled != (compiled := getattr(engine.programs, "compiled", 0)):
            begun = time.process_time()
            output = engine.generate(
                prompts, config=config, max_new_tokens=task.max_new_tokens, batch=len(batch)
            )
            seconds = time.process_time() - begun
        judged = zip(batch, output.text, strict=True)
        self.correct += [task.score(sample, text) for sample, text in judged]
        self.nfe += output.nfe
        self.tokens.append(sum(map(len, output.tokens)))
        self.seconds.append(seconds)


def batches(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    return [samples[first : first + size] for first in range(0, len(samples), size)]


def side_by_side(
    engine: Engine,
    task: Task,
    config: DecodingConfig,
    baseline: DecodingConfig,
    parts: Sequence[Sequence[Sample]],
) -> tuple[Measured, Measured]:
    """A configuration and the baseline: every batch with both, in turn first."""
    found = Measured(), Measured()
    for number, part in enumerate(parts):
        both = list(zip(found, (config, baseline), strict=True))
        for measured, each in both if number % 2 else reversed(both):
            measured.add(engine, task, each, part)
    return found


def ratios(measured: Measured, baseline: Measured) -> tuple[float, float, float]:
    """How many times the baseline's tokens per second: median and quartiles over batches."""
    rates = [
        [tokens / seconds for tokens, seconds in zip(m.tokens, m.seconds, strict=True)]
        for m in (measured, baseline)
    ]
    found = [one / other for one, other in zip(*rates, strict=True)]
    if len(found) < 2:
        return found[0], found[0], found[0]
    first, middle, third = statistics.quantiles(found, n=4)
    return middle, first, third


class Store:
    """Results by name in one JSON file, which is whole at any moment.

    Args:
        path: Of the file.
        settings: What results depend on; results of other settings are dropped.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.entries: dict[str, Any] = {}
        if path.exists():
            known = json.loads(path.read_text())
            if known["settings"] == settings:
                self.entries = known["entries"]

    def put(self, name: str, value: Any) -> None:
        self.entries[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps({"settings": self.settings, "entries": self.entries}))
        os.replace(beside, self.path)
