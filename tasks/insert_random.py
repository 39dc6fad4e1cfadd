"""Insert a letter anywhere: where it goes moves every token after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import VALID_ANSWER, GeneratorTask, Sample
from dllmc.tasks._words import LETTERS

if TYPE_CHECKING:
    import random


class InsertRandomTask(GeneratorTask):
    """`insert: x : a b c` -> `a x b c`, or `x` at any other place."""

    name = "insert-random"
    kind = "dependent"

    def draw(self, rng: random.Random) -> Sample:
        items = rng.choices(LETTERS, k=rng.randint(3, 9))
        new, place = rng.choice(LETTERS), rng.randint(0, len(items))
        answer = [*items[:place], new, *items[place:]]
        return Sample(f"insert: {new} : {' '.join(items)}", " ".join(answer), VALID_ANSWER)

    def score(self, sample: Sample, answer: str) -> bool:
        _, new, _, *items = sample.prompt.split()
        found = answer.split()
        return any(
            found == [*items[:place], new, *items[place:]] for place in range(len(items) + 1)
        )
