"""Add two numbers: each carry depends on the digits to its right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample

if TYPE_CHECKING:
    import random


class AdditionTask(GeneratorTask):
    """`add: 472 + 81` -> `553`, up to three digits each."""

    name = "addition"
    kind = "stepwise"

    def draw(self, rng: random.Random) -> Sample:
        first, second = (rng.randint(0, 10 ** rng.randint(2, 3) - 1) for _ in range(2))
        return Sample(f"add: {first} + {second}", str(first + second))
