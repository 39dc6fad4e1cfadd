"""Replace committed tokens that the model has come to doubt (LLaDA2.1's token editing).

Published loop: LLaDA2.1 `generate` (`editing_threshold`, `max_post_steps`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Revise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.spec import DenoiserSpec


class Edit(Revise):
    """A committed token of the block gives way to a candidate of probability over `threshold`.

    A block without masks is evaluated until nothing is replaced, at most `steps` times.
    """

    kind: Literal["edit"] = "edit"
    threshold: float = knob(0.9, ge=0, le=1, low=0.5, high=0.995, lossy=True)
    steps: int = knob(16, ge=0, low=0, high=32, lossy=True)

    def values(self) -> dict[str, float]:
        limit = (1 - self.threshold) / self.threshold if self.threshold > 0 else math.inf
        return {"doubt": limit}

    @staticmethod
    def select(doubt: Tensor, changed: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return (doubt < values["doubt"][:, None]) & changed

    def oracle(self, doubt: Sequence[float]) -> set[int]:
        return {i for i, d in enumerate(doubt) if self.threshold * d < 1 - self.threshold}

    def settled(self, masks: int, revised: int, unmasked_steps: int) -> bool:
        return (masks == 0 and revised == 0) or unmasked_steps >= self.steps

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        return spec.family.startswith("llada2")
