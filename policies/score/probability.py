"""Confidence is the probability of the candidate (LLaDA's `low_confidence` remasking)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies.axes import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Probability(Score):
    """The doubt of probability p is (1 - p) / p: the tail mass itself."""

    kind: Literal["probability"] = "probability"

    def doubt(self, tail_mass: Tensor) -> Tensor:
        return tail_mass

    def oracle(self, tail_mass: Sequence[float]) -> list[float]:
        return list(tail_mass)
