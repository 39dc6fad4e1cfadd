"""Commit what is sure enough (Fast-dLLM, arXiv 2505.22618, confidence-aware decoding)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Threshold(Commit):
    """Every row whose probability is at least `threshold`, else the surest one."""

    needs_odds: ClassVar[bool] = True
    kind: Literal["threshold"] = "threshold"
    threshold: float = knob(0.9, gt=0, le=1, low=0.3, high=0.995, lossy=True)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"doubt": (1 - self.threshold) / self.threshold}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        return rows.doubt <= values["doubt"][:, None]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del progress
        # 1 / (1 + doubt) >= threshold, without rounding a small doubt away.
        sure = self.threshold, 1 - self.threshold
        return {i for i, row in enumerate(rows) if sure[0] * row.doubt <= sure[1]}
