"""Commit from left to right: the order of an autoregressive model.

The `leftright` of APD's released code (danielmisrael/apd a555561).
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
    from dllmc.spec import DenoiserSpec


class Leftmost(Commit):
    """The first masked positions commit, however unsure they are.

    Attributes:
        tokens: So many an evaluation.
    """

    # It always commits the first: the surest one is not owed as well.
    may_wait: ClassVar[bool] = True
    foreseen: ClassVar[bool] = True
    leftmost: ClassVar[bool] = True
    kind: Literal["leftmost"] = "leftmost"
    tokens: int = knob(1, gt=0, low=1, high=8, lossy=True)

    @property
    def properties(self) -> frozenset[str]:
        return super().properties | ({"several"} if self.tokens > 1 else set())

    def coming(self, ranked: Sequence[int], progress: BlockProgress) -> Sequence[int]:
        del progress
        return sorted(ranked)[: self.tokens]

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"tokens": self.tokens}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        return rows.eligible.cumsum(dim=-1) <= values["tokens"][:, None]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del progress
        return set(range(min(self.tokens, len(rows))))

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # Without a second model that accepts more, it is one token per evaluation.
        del spec
        return False
