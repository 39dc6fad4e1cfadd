"""Copy a list: every answer token depends on the prompt alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample
from dllmc.tasks._words import LETTERS

if TYPE_CHECKING:
    import random


class CopyTask(GeneratorTask):
    """`copy: d a c b` -> `d a c b`."""

    name = "copy"
    kind = "independent"

    def draw(self, rng: random.Random) -> Sample:
        items = rng.choices(LETTERS, k=rng.randint(4, 12))
        return Sample(f"copy: {' '.join(items)}", " ".join(items))
