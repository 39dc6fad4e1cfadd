"""Commit what is sure enough, but no faster than planned (Fast-dLLM's loop of Dream, no blocks).

Published loop: NVlabs/Fast-dLLM a9b81e4, Dream's `_sample` with `alg="confidence_threshold"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit
from dllmc.policies.progress import rank, surest_first

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class PacedThreshold(Commit):
    """Of the rows whose probability reaches `threshold` the surest, else the surest one.

    After n evaluations no more than n / `steps` of the block are committed. What falls behind may
    be made up for later, and evaluations go on when the planned ones are over.
    """

    needs_odds: ClassVar[bool] = True
    traits: ClassVar[frozenset[str]] = frozenset({"plans_block", "counts_steps"})
    kind: Literal["paced_threshold"] = "paced_threshold"
    threshold: float = knob(0.9, gt=0, le=1, low=0.3, high=0.995, lossy=True)
    steps: int = knob(8, gt=0, low=1, high=64, scale="log", lossy=True)

    def count(self, progress: BlockProgress) -> int:
        """Tokens that may commit in this evaluation."""
        planned = min(progress.masks, progress.masks * (progress.step + 1) // self.steps)
        return planned - (progress.masks - progress.remaining)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        doubt = (1 - self.threshold) / self.threshold
        return {"doubt": doubt, "count": self.count(progress)}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        sure = rows.doubt <= values["doubt"][:, None]
        return sure & (rank(rows) < values["count"][:, None])

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        first = surest_first(rows)[: max(0, self.count(progress))]
        # 1 / (1 + doubt) >= threshold, without rounding a small doubt away.
        sure = self.threshold, 1 - self.threshold
        return {i for i in first if sure[0] * rows[i].doubt <= sure[1]}

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        return bool(spec.logit_shift)
