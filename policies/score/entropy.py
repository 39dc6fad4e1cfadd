"""Confidence is low entropy (Dream's `entropy`, arXiv 2508.15487; dParallel, arXiv 2509.26488)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._entropy import entropy_of
from dllmc.policies.axes import Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Entropy(Score):
    """The doubt is the entropy of the model's distribution, without noise, in nats."""

    kind: Literal["entropy"] = "entropy"
    odds: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        del values
        return rows.having(doubt=rows.extra["entropy"])

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        del progress, memory
        return [row.having(doubt=entropy_of(row)) for row in rows]
