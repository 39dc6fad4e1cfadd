"""Confidence is the probability of the candidate (LLaDA's `low_confidence` remasking)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies.axes import Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Probability(Score):
    """The doubt of probability p is (1 - p) / p: the tail mass itself."""

    kind: Literal["probability"] = "probability"

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        del values
        return rows.having(doubt=rows.tail)

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        del progress, memory
        return [row.having(doubt=row.tail_mass) for row in rows]
