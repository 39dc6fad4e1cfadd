"""Commit what has little entropy (dParallel, arXiv 2509.26488, entropy-threshold remasking)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies._entropy import entropy_of
from dllmc.policies.axes import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class EntropyThreshold(Commit):
    """Every row whose entropy is at most `threshold` nats, else the surest one.

    The published loops take the row of least entropy for the surest, which is score `entropy`.
    That of Dream wants an entropy below the threshold, that of LLaDA at most the threshold.
    """

    kind: Literal["entropy"] = "entropy"
    threshold: float = knob(0.5, ge=0, low=0.05, high=1.0, lossy=True, allow_inf_nan=False)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"threshold": self.threshold}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        return rows.extra["entropy"] <= values["threshold"][:, None]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del progress
        return {i for i, row in enumerate(rows) if entropy_of(row) <= self.threshold}
