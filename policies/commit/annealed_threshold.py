"""A threshold that falls as the response goes on (dInfer's IterSmooth, arXiv 2510.08666).

Published loop: inclusionAI/dInfer fce4e32, `IterationSmooth` (`threshold_decay`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class AnnealedThreshold(Commit):
    """Every row whose probability reaches the threshold of now, else the surest one.

    It is 1 in the response's first evaluation and falls by `decay` in each, to `threshold`.
    """

    needs_odds: ClassVar[bool] = True
    traits: ClassVar[frozenset[str]] = frozenset({"counts_steps"})
    kind: Literal["annealed_threshold"] = "annealed_threshold"
    threshold: float = knob(0.9, gt=0, le=1, low=0.3, high=0.995, lossy=True)
    decay: float = knob(0.02, ge=0, low=0.0, high=0.05, lossy=True, allow_inf_nan=False)

    def now(self, progress: BlockProgress) -> float:
        """The threshold of this evaluation."""
        return max(1 - self.decay * progress.evaluations, self.threshold)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        threshold = self.now(progress)
        return {"doubt": (1 - threshold) / threshold}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        return rows.doubt <= values["doubt"][:, None]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        threshold = self.now(progress)
        return {i for i, row in enumerate(rows) if threshold * row.doubt <= 1 - threshold}
