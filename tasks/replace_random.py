"""Replace exactly one item, whichever: the answer's tokens must agree on which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import VALID_ANSWER, GeneratorTask, Sample
from dllmc.tasks._words import LETTERS

if TYPE_CHECKING:
    import random


class ReplaceRandomTask(GeneratorTask):
    """`change: x : a b c` -> `a x c`, or any other one item replaced by `x`."""

    name = "replace-random"
    kind = "dependent"

    def draw(self, rng: random.Random) -> Sample:
        new, *pool = rng.sample(LETTERS, k=len(LETTERS))
        items = rng.choices(pool, k=rng.randint(3, 9))
        place = rng.randrange(len(items))
        answer = [*items[:place], new, *items[place + 1 :]]
        return Sample(f"change: {new} : {' '.join(items)}", " ".join(answer), VALID_ANSWER)

    def score(self, sample: Sample, answer: str) -> bool:
        _, new, _, *items = sample.prompt.split()
        found = answer.split()
        return any(
            found == [*items[:place], new, *items[place + 1 :]] for place in range(len(items))
        )
