"""Running sums modulo ten: easy one after the other, a long chain all at once."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample

if TYPE_CHECKING:
    import random


class RunningSumTask(GeneratorTask):
    """`running: 3 1 4 9` -> `3 4 8 7`."""

    name = "running-sum"
    kind = "stepwise"

    def draw(self, rng: random.Random) -> Sample:
        items = rng.choices(range(10), k=rng.randint(5, 10))
        sums = accumulate(items, lambda total, item: (total + item) % 10)
        return Sample(f"running: {' '.join(map(str, items))}", " ".join(map(str, sums)))
