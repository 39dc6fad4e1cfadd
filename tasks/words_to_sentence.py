"""Make a sentence of given words: who does it to whom is free, but must be consistent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import VALID_ANSWER, GeneratorTask, Sample
from dllmc.tasks._words import ADJECTIVES, NOUNS, VERBS

if TYPE_CHECKING:
    import random


def _sentences(first: str, second: str, verb: str, adjective: str) -> list[str]:
    return [
        f"the {adjective} {first} {verb} a {second}",
        f"the {adjective} {second} {verb} a {first}",
        f"a {first} {verb} the {adjective} {second}",
        f"a {second} {verb} the {adjective} {first}",
    ]


class WordsToSentenceTask(GeneratorTask):
    """`sentence: cat dog sees red` -> `the red dog sees a cat`, or three other sentences."""

    name = "words-to-sentence"
    kind = "dependent"

    def draw(self, rng: random.Random) -> Sample:
        first, second = rng.sample(NOUNS, k=2)
        verb, adjective = rng.choice(VERBS), rng.choice(ADJECTIVES)
        return Sample(
            f"sentence: {first} {second} {verb} {adjective}",
            rng.choice(_sentences(first, second, verb, adjective)),
            VALID_ANSWER,
        )

    def score(self, sample: Sample, answer: str) -> bool:
        _, first, second, verb, adjective = sample.prompt.split()
        return " ".join(answer.split()) in _sentences(first, second, verb, adjective)
