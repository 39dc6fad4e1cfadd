"""Reverse a list: every answer token depends on the prompt alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample
from dllmc.tasks._words import LETTERS

if TYPE_CHECKING:
    import random


class ReverseTask(GeneratorTask):
    """`reverse: d a c b` -> `b c a d`."""

    name = "reverse"
    kind = "independent"

    def draw(self, rng: random.Random) -> Sample:
        items = rng.choices(LETTERS, k=rng.randint(4, 12))
        return Sample(f"reverse: {' '.join(items)}", " ".join(reversed(items)))
