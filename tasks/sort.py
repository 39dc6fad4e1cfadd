"""Sort a list: every answer token depends on the prompt alone, though on all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample
from dllmc.tasks._words import LETTERS

if TYPE_CHECKING:
    import random


class SortTask(GeneratorTask):
    """`sort: d a c b` -> `a b c d`; the letters are distinct."""

    name = "sort"
    kind = "independent"

    def draw(self, rng: random.Random) -> Sample:
        items = rng.sample(LETTERS, k=rng.randint(4, 12))
        return Sample(f"sort: {' '.join(items)}", " ".join(sorted(items)))
