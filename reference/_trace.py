"""One evaluation of the reference decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dllmc.policies.rows import Prediction


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One evaluation and what was decided from it. Positions are those of the canvas.

    Attributes:
        evaluated: Positions evaluated, ascending.
        refresh: Whether the evaluation is a refresh by the cache's rule.
        block: Start and end of the block that is decoded.
        predictions: Of all positions that were offered, ascending, as the score judged them.
        eligible: Those of them that might commit.
        committed: Position and token of what this step commits or replaces, ascending.
        revised: Those of the positions that held another token before.
        reopened: Positions that are masked again.
        end: Where the block ends, if its schedule chose in this step.
        cut: Where the response ends, if the stop policy said so in this step.
        steps: Steps that were verified in this one evaluation.
        single: Whether one of the predictions alone might commit.
        joint: Whether it is a pass of a joint sampler, and no evaluation of the denoiser.
    """

    evaluated: tuple[int, ...]
    refresh: bool
    block: tuple[int, int]
    predictions: tuple[Prediction, ...]
    eligible: tuple[int, ...]
    committed: tuple[tuple[int, int], ...]
    revised: tuple[int, ...] = ()
    reopened: tuple[int, ...] = ()
    end: int | None = None
    cut: int | None = None
    steps: int = 1
    single: bool = False
    joint: bool = False

    @property
    def candidates(self) -> tuple[int, ...]:
        """Candidate of each eligible position."""
        return tuple(p.candidate for p in self._of_eligible)

    @property
    def logits(self) -> tuple[float, ...]:
        """Logit of the candidate of each eligible position, without noise."""
        return tuple(p.logit for p in self._of_eligible)

    @property
    def margins(self) -> tuple[float, ...]:
        """By how much the candidate leads at each eligible position, with noise."""
        return tuple(p.margin for p in self._of_eligible)

    @property
    def doubts(self) -> tuple[float, ...]:
        """Doubt of each eligible position."""
        return tuple(p.doubt for p in self._of_eligible)

    @property
    def _of_eligible(self) -> list[Prediction]:
        return [p for p in self.predictions if p.position in self.eligible]
