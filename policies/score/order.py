"""The order is drawn once, and known before anything is evaluated (dKV-Cache, arXiv 2505.15781).

As `random` it ignores what the model says. Published code draws it at the start of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from torch.nn.functional import pad

from dllmc.policies._hash import uniform, uniform_of
from dllmc.policies.axes import Score

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Order(Score):
    """The doubt is uniform, and that of a position is the same in every evaluation.

    It follows from seed, stream and position.
    """

    kind: Literal["order"] = "order"
    odds: ClassVar[bool] = False
    foreseen: ClassVar[bool] = True

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        del values
        first = pad(rows.counters[:, :2], (0, 1))
        return rows.having(doubt=uniform(first, rows.positions).to(rows.tail.dtype))

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        del progress, memory
        return [row.having(doubt=_place(row.counters, row.position)) for row in rows]

    def ranked(self, positions: Iterable[int], counters: tuple[int, int, int]) -> list[int]:
        return sorted(positions, key=lambda position: (_place(counters, position), position))

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # It ignores what the model says, which costs evaluations and quality.
        del spec
        return False


def _place(counters: tuple[int, int, int], position: int) -> float:
    seed, stream, _ = counters
    return uniform_of((seed, stream, 0), position)
