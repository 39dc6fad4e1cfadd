"""Replace one letter by another throughout a list: a token-wise map of the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample
from dllmc.tasks._words import LETTERS

if TYPE_CHECKING:
    import random


class ReplaceTask(GeneratorTask):
    """`replace: b x : a b c b` -> `a x c x`."""

    name = "replace"
    kind = "independent"

    def draw(self, rng: random.Random) -> Sample:
        pool = rng.sample(LETTERS, k=5)
        items = rng.choices(pool, k=rng.randint(4, 12))
        old, new = rng.choice(items), rng.choice(LETTERS)
        answer = [new if item == old else item for item in items]
        return Sample(f"replace: {old} {new} : {' '.join(items)}", " ".join(answer))
