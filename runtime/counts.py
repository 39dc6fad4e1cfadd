"""What is counted of a sequence's evaluations, whatever they committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dllmc.policies.standing import Evaluation


class Counts(NamedTuple):
    """Of one sequence; see `Standing` for what each is.

    Attributes:
        step: Steps of the block.
        outer_step: Steps of the outer block.
        exact: Where exact keys and values end.
        since_refresh: Steps since the last refresh.
        draws: Steps of the whole response.
    """

    step: int
    outer_step: int
    exact: int
    since_refresh: int
    draws: int

    def after(self, evaluation: Evaluation, outer_start: int, steps: int = 1) -> Counts:
        """After an evaluation of the denoiser that stands for so many steps.

        Args:
            evaluation: It.
            outer_start: Where the outer block begins.
            steps: Several where drafts were accepted.
        """
        rows, exact = evaluation.rows, self.exact
        if rows[0] <= exact < outer_start <= rows[-1] + 1:
            exact = outer_start
        # One that only appends a finished block is no step of the next.
        own = steps if rows[-1] >= outer_start else 0
        return Counts(
            self.step + own,
            self.outer_step + own,
            exact,
            steps if evaluation.refresh else self.since_refresh + steps,
            self.draws + steps,
        )
