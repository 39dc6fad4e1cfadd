"""A grid of configurations and what each of them did: `bench_grid.py` measures, others look up."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dllmc.tasks import Sample, Split

FOLDER: Final = Path(__file__).parent / "grid"
TASKS: Final = ("json-record", "pick-template", "shuffle", "written-addition")
MARGIN: Final = 0.02
BATCH: Final = 16
LENGTH: Final = 32
PROMPTS: Final = {"tune": 256, "confirm": 1024}
COMMITS: Final = {
    "threshold": ("threshold", (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)),
    "factor": ("factor", (0.5, 0.75, 1.0, 1.5, 2.0)),
    "quota": ("steps", (4, 8, 16, 32)),
}
CACHES: Final = {"none": (), "prefix": (None, 4), "dual": (None, 4)}
BLOCKS: Final = (4, 8, 16, 32)

SPACE: Final[dict[str, Any]] = {
    "schedule": "blocks",
    "schedule.block_length": list(BLOCKS),
    "belief": "mask",
    "score": "probability",
    "commit": sorted(COMMITS),
    **{f"commit.{kind}.{name}": list(values) for kind, (name, values) in COMMITS.items()},
    "cache": sorted(CACHES),
    **{f"cache.{kind}.refresh_every": list(found) for kind, found in CACHES.items() if found},
    "verify": "none",
    "revise": "none",
}
"""The same as a tuner's space: it finds the grid's configurations and no others."""


def configurations() -> list[DecodingConfig]:
    """All of the grid, those of a few evaluations first.

    As many steps as do not divide over the blocks are no configuration.
    """
    commits = [
        {"kind": kind, name: value} for kind, (name, values) in COMMITS.items() for value in values
    ]
    caches = [
        {"kind": kind} if every is None else {"kind": kind, "refresh_every": every}
        for kind, found in CACHES.items()
        for every in (found or (None,))
    ]
    return [
        QUALITY_REFERENCE.replace(
            schedule={"kind": "blocks", "block_length": length}, commit=commit, cache=cache
        )
        for commit, cache, length in itertools.product(commits, caches, BLOCKS)
        if commit.get("steps", LENGTH) % (LENGTH // length) == 0
    ]


def digest(text: str) -> str:
    """Of a wrong answer: different ones have different ones, as far as 16 bits tell."""
    return hashlib.sha256(text.encode()).hexdigest()[:4]


@dataclass(slots=True)
class Cell:
    """One configuration on one task.

    Attributes:
        wrong: Per split, the digest of each answer that was wrong by the index of its prompt.
        judged: Per split, of how many prompts from the first on it is known.
        seconds: Processor seconds per prompt, of each batch.
        nfe: Evaluations per prompt, of each batch.
    """

    wrong: dict[str, dict[int, str]] = field(default_factory=lambda: {"tune": {}, "confirm": {}})
    judged: dict[str, int] = field(default_factory=lambda: {"tune": 0, "confirm": 0})
    seconds: list[float] = field(default_factory=list)
    nfe: list[float] = field(default_factory=list)

    def right(self, split: Split, count: int) -> list[bool]:
        """Whether each of the first prompts of a split was answered rightly."""
        assert count <= self.judged[split], "not known"
        return [index not in self.wrong[split] for index in range(count)]


class Table:
    """What is known of one task.

    Args:
        task: Its name.
        folder: Where its file is.
    """

    def __init__(self, task: str, folder: Path = FOLDER) -> None:
        self.task = get_task(task)
        self.path = folder / f"{task}.json"
        self.cells: dict[str, Cell] = {}
        self.environment: dict[str, Any] = {}
        if self.path.exists():
            known = json.loads(self.path.read_text())
            self.environment = known["environment"]
            for text, (judged, wrong, seconds, nfe) in known["cells"]:
                pairs = {
                    split: {int(index): mark for index, mark in found.items()}
                    for split, found in wrong.items()
                }
                # What is not written is as in the reference: see `_short`.
                name = QUALITY_REFERENCE.replace(**text).canonical_json()
                assert name not in self.cells, f"{self.path} holds {name} twice"
                self.cells[name] = Cell(pairs, judged, seconds, nfe)

    def cell(self, config: DecodingConfig) -> Cell:
        return self.cells.setdefault(config.canonical_json(), Cell())

    def samples(self, split: Split) -> Sequence[Sample]:
        return self.task.samples(split, PROMPTS[split], 0)

    def save(self) -> None:
        """One line per configuration; whole at any moment."""
        lines = [
            json.dumps(
                [_short(text), [c.judged, c.wrong, [round(s, 7) for s in c.seconds], c.nfe]],
                separators=(",", ":"),
            )
            for text, c in sorted(self.cells.items())
        ]
        head = json.dumps(self.environment, sort_keys=True)
        body = ",\n".join(lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".part")
        beside.write_text(f'{{"environment": {head}, "cells": [\n{body}\n]}}\n')
        os.replace(beside, self.path)


def _short(text: str) -> dict[str, Any]:
    """The axes of a configuration that differ within the grid, or from the reference."""
    found: dict[str, Any] = json.loads(text)
    usual = json.loads(QUALITY_REFERENCE.canonical_json())
    return {axis: value for axis, value in found.items() if value != usual[axis]} | {
        "schedule": found["schedule"],
        "commit": found["commit"],
    }


def differences(cell: Cell, reference: Cell, split: Split, count: int) -> tuple[int, int]:
    """Prompts that only the configuration answers rightly, and that only the reference does."""
    both = list(zip(cell.right(split, count), reference.right(split, count), strict=True))
    return sum(o and not r for o, r in both), sum(r and not o for o, r in both)


def chunks(count: int) -> Iterable[tuple[int, int]]:
    """First and last index of each batch of so many prompts."""
    return [(first, min(first + BATCH, count)) for first in range(0, count, BATCH)]
