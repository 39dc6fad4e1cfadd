"""Structured output: a line of text becomes a JSON object."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample
from dllmc.tasks._words import CITIES, NAMES

if TYPE_CHECKING:
    import random


class JsonRecordTask(GeneratorTask):
    """`json: bob 31 oslo` -> `{"name":"bob","age":31,"city":"oslo"}`; key order is free."""

    name = "json-record"
    kind = "structured"

    def draw(self, rng: random.Random) -> Sample:
        name, age, city = rng.choice(NAMES), rng.randint(10, 99), rng.choice(CITIES)
        record = [("name", name), ("age", age), ("city", city)]
        rng.shuffle(record)
        answer = json.dumps(dict(record), separators=(",", ":"))
        return Sample(f"json: {name} {age} {city}", answer, metric="json-equal")
