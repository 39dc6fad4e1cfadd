"""Confidence is drawn (LLaDA's `random` remasking, arXiv 2502.09992)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._hash import uniform, uniform_of
from dllmc.policies.axes import Score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Random(Score):
    """The doubt is uniform, anew in every evaluation; the order of the model's own process.

    It follows from seed, stream, position and evaluation, as the noise of sampling does.
    """

    kind: Literal["random"] = "random"
    odds: ClassVar[bool] = False

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        del values
        return rows.having(doubt=uniform(rows.counters, rows.positions).to(rows.tail.dtype))

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        del progress, memory
        return [row.having(doubt=uniform_of(row.counters, row.position)) for row in rows]

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # A baseline: it ignores what the model says, which costs evaluations and quality.
        del spec
        return False
