"""Commit what is sure enough (Fast-dLLM, arXiv 2505.22618, confidence-aware decoding)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import BlockProgress, Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class Threshold(Commit):
    """Every row whose probability is at least `threshold`, else the surest one."""

    kind: Literal["threshold"] = "threshold"
    threshold: float = knob(0.9, gt=0, le=1, low=0.3, high=0.995, lossy=True)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"doubt": (1 - self.threshold) / self.threshold}

    @staticmethod
    def select(doubt: Tensor, eligible: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return (doubt <= values["doubt"][:, None]) & eligible

    def oracle(self, doubt: Sequence[float], progress: BlockProgress) -> set[int]:
        del progress
        # 1 / (1 + doubt) >= threshold, without rounding a small doubt away.
        sure = self.threshold, 1 - self.threshold
        return {i for i, value in enumerate(doubt) if sure[0] * value <= sure[1]}
