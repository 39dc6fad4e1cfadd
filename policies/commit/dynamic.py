"""Commit what is sure enough, but at least a quota (SDAR, LLaDA2: low-confidence dynamic).

Published loops: SDAR `generate.py`, LLaDA2.0 and 2.1 `generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit
from dllmc.policies.progress import rank, surest_first

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Dynamic(Commit):
    """Every row whose probability exceeds `threshold` if these reach the quota, else the quota.

    Attributes:
        threshold: Exceeded, not reached, unlike that of `threshold`.
        steps: Evaluations of a block that the quota is shared over, as its whole length, and the
            part that the prompt fills too, is divided by them; None is one token each.
    """

    needs_odds: ClassVar[bool] = True
    kind: Literal["dynamic"] = "dynamic"
    threshold: float = knob(0.95, gt=0, le=1, low=0.3, high=0.995, lossy=True)
    steps: int | None = knob(None, gt=0, low=1, high=64, scale="log", lossy=True)

    @property
    def properties(self) -> frozenset[str]:
        plans = set() if self.steps is None else {"plans_block", "counts_steps"}
        return super().properties | plans

    def count(self, progress: BlockProgress) -> int:
        """The quota of this evaluation."""
        if self.steps is None:
            return 1
        base, remainder = divmod(progress.length, self.steps)
        return max(1, base + (progress.step < remainder))

    def values(self, progress: BlockProgress) -> dict[str, float]:
        doubt = (1 - self.threshold) / self.threshold
        return {"doubt": doubt, "count": self.count(progress)}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        sure = (rows.doubt < values["doubt"][:, None]) & rows.eligible
        quota = values["count"][:, None]
        enough = sure.sum(-1, keepdim=True) >= quota
        return torch.where(enough, sure, rank(rows) < quota)

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        # 1 / (1 + doubt) > threshold, without rounding a small doubt away.
        sure = {i for i, row in enumerate(rows) if self.threshold * row.doubt < 1 - self.threshold}
        quota = self.count(progress)
        if len(sure) >= quota:
            return sure
        return set(surest_first(rows)[:quota])

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        return spec.attention == "block_causal"
