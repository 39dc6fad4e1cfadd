"""Put a list into another order: each answer token depends on all the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import VALID_ANSWER, GeneratorTask, Sample
from dllmc.tasks._words import LETTERS

if TYPE_CHECKING:
    import random


class ShuffleTask(GeneratorTask):
    """`shuffle: d a c b` -> `b d a c`, or any other new order; the letters are distinct."""

    name = "shuffle"
    kind = "dependent"

    def draw(self, rng: random.Random) -> Sample:
        items = rng.sample(LETTERS, k=rng.randint(3, 7))
        answer = items
        while answer == items:
            answer = rng.sample(items, k=len(items))
        return Sample(f"shuffle: {' '.join(items)}", " ".join(answer), VALID_ANSWER)

    def score(self, sample: Sample, answer: str) -> bool:
        items, found = sample.prompt.split()[1:], answer.split()
        return found != items and sorted(found) == sorted(items)
