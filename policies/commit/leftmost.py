"""Commit from left to right, one token at a time: the order of an autoregressive model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies.axes import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Leftmost(Commit):
    """The first masked position commits, however unsure it is."""

    # It always commits the first: the surest one is not owed as well.
    may_wait: ClassVar[bool] = True
    kind: Literal["leftmost"] = "leftmost"

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        del values
        first = rows.eligible.int().argmax(dim=-1, keepdim=True)
        return torch.zeros_like(rows.eligible).scatter(-1, first, True)

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del rows, progress
        return {0}

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # Without a second model that accepts more, it is one token per evaluation.
        del spec
        return False
