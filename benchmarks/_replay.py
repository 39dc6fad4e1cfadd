"""An engine and a task that answer from a grid's table, so that searches cost no decoding."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, field
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from _grid import BATCH, PROMPTS

from dllmc.spec import HardwareKey, TaskError
from dllmc.tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from _grid import Cell, Table

    from dllmc.policies.config import DecodingConfig
    from dllmc.tasks import Sample, Split

    # Makes a table know what a configuration does with the first prompts of a split.
    Extend = Callable[[DecodingConfig, Split, int], Cell]

# Of the seconds of a batch, beyond what was measured.
_NOISE = 0.01


class ReplayedTask(Task):
    """The prompts of a table: those of the search as they stand, others as the seed decides."""

    def __init__(self, table: Table) -> None:
        self.name = table.task.name
        self.kind = table.task.kind
        self.max_new_tokens = table.task.max_new_tokens
        self._task = table.task
        self._samples = {split: list(table.samples(split)) for split in PROMPTS}

    def samples(self, split: Split, count: int, seed: int = 0) -> list[Sample]:
        if split not in self._samples:
            raise TaskError(f"the table has no split `{split}`; ask for {' or '.join(PROMPTS)}")
        found = list(self._samples[split])
        if split != "tune":
            random.Random(seed).shuffle(found)
        return found[:count]

    def score(self, sample: Sample, answer: str) -> bool:
        return answer == str(sample.reference)

    def place(self, prompt: str) -> tuple[Split, int]:
        """Split and index of a prompt."""
        if not hasattr(self, "_places"):
            self._places = {
                sample.prompt: (split, index, str(sample.reference))
                for split, samples in self._samples.items()
                for index, sample in enumerate(samples)
            }
        split, index, _ = self._places[prompt]
        return split, index

    def right(self, prompt: str) -> str:
        """The right answer to a prompt."""
        self.place(prompt)
        return self._places[prompt][2]


@dataclass
class ReplayedEngine:
    """Answers as the table says, in the seconds that it says with noise as it was measured.

    Args:
        table: Of the task.
        task: Of the table.
        spec: Of the model that was measured.
        extend: Asked where the table does not know an answer.
        seed: Of the noise.
    """

    table: Table
    task: ReplayedTask
    spec: Any
    extend: Extend
    seed: int
    now: float = 0.0
    decoded: int = 0
    name: str = "embedded"
    weights_sha256: str = ""
    dtype: str = "float32"
    backend: str = "eager"
    device: str = "cpu"
    hardware: HardwareKey = field(
        default_factory=lambda: HardwareKey(kind="cpu", name="Table", architecture="none", units=1)
    )
    software: dict[str, str] = field(default_factory=lambda: {"torch": "table"})
    execution: str = "table"
    numerics: str = "table"
    database: Path | None = None
    package: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(graph_sha256=None, passes_sha256=None)
    )

    def __post_init__(self) -> None:
        self.weights_sha256 = self.table.environment["weights"]
        self._random = random.Random(self.seed)

    def clock(self) -> float:
        return self.now

    def seconds(self, config: DecodingConfig) -> float:
        """Per prompt, without noise."""
        return median(self.table.cell(config).seconds)

    def generate(self, prompt: Sequence[str], *, config: DecodingConfig, **_: Any) -> Any:
        places = [self.task.place(text) for text in prompt]
        for split, index in places:
            self.extend(config, split, min(PROMPTS[split], (index // BATCH + 1) * BATCH))
        cell = self.table.cell(config)
        answers = []
        for text, (split, index) in zip(prompt, places, strict=True):
            answers.append(cell.wrong[split].get(index) or self.task.right(text))
        split, index = places[0]
        # A batch takes its own time, whoever decodes it; those of the search were measured first.
        number = index // BATCH if split == "tune" else len(cell.seconds)
        measured = cell.seconds[number] if number < len(cell.seconds) else median(cell.seconds)
        self.now += measured * len(prompt) * self._random.gauss(1, _NOISE)
        self.decoded += len(prompt)
        nfe = max(1, round(median(cell.nfe)))
        return SimpleNamespace(
            text=answers,
            tokens=[list(answer.encode()) for answer in answers],
            nfe=[nfe] * len(prompt),
            plans=[[("step", nfe)]] * len(prompt),
        )


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is one: a search writes a file per trial."""
    try:
        return tempfile.TemporaryDirectory(dir="/dev/shm")
    except OSError:
        return tempfile.TemporaryDirectory()
