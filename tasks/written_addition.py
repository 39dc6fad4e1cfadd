"""Addition with its working written out: the steps make the result easy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tasks._base import GeneratorTask, Sample

if TYPE_CHECKING:
    import random


class WrittenAdditionTask(GeneratorTask):
    """`work: 147 + 238` -> `7+8+0=15 4+3+1=8 1+2+0=3 : 385`."""

    name = "written-addition"
    kind = "stepwise"

    def draw(self, rng: random.Random) -> Sample:
        first, second = rng.randint(100, 999), rng.randint(100, 999)
        return Sample(f"work: {first} + {second}", _working(first, second))


def _working(first: int, second: int) -> str:
    parts, carry = [], 0
    for a, b in zip(reversed(str(first)), reversed(str(second)), strict=True):
        total = int(a) + int(b) + carry
        parts.append(f"{a}+{b}+{carry}={total}")
        carry = total // 10
    return f"{' '.join(parts)} : {first + second}"
