"""Fill one of several templates: all tokens must follow the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import VALID_ANSWER, GeneratorTask, Sample
from dllmc.tasks._words import CITIES, DAYS, NAMES

if TYPE_CHECKING:
    import random

TEMPLATES = (
    "dear {name} , welcome to {city} on {day} for room {room}",
    "hello {name} , room {room} in {city} is free on {day}",
    "{day} is a good day for {city} , {name} : see room {room}",
    "room {room} waits for you in {city} , {name} , on {day}",
)


class PickTemplateTask(GeneratorTask):
    """`greet: bob oslo monday 47` -> `hello bob , room 47 in oslo is free on monday`, or one
    of three other greetings.
    """

    name = "pick-template"
    kind = "dependent"

    def draw(self, rng: random.Random) -> Sample:
        facts = {
            "name": rng.choice(NAMES),
            "city": rng.choice(CITIES),
            "day": rng.choice(DAYS),
            "room": str(rng.randint(10, 99)),
        }
        return Sample(
            f"greet: {' '.join(facts.values())}",
            rng.choice(TEMPLATES).format(**facts),
            VALID_ANSWER,
        )

    def score(self, sample: Sample, answer: str) -> bool:
        _, name, city, day, room = sample.prompt.split()
        valid = (t.format(name=name, city=city, day=day, room=room) for t in TEMPLATES)
        return " ".join(answer.split()) in valid
