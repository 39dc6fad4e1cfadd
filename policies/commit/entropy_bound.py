"""Commit as long as the joint entropy is bounded (EB-Sampler, arXiv 2505.24857).

Rows of entropies H that commit together, as if they were independent, err by at most the sum of
all H but the largest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies._entropy import entropy_of
from dllmc.policies.axes import Commit
from dllmc.policies.progress import ordered, surest_first

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class EntropyBound(Commit):
    """The longest sure prefix whose entropies, the largest left out, sum up to at most `bound`.

    A bound of 0 commits one row, and what has no entropy.
    """

    kind: Literal["entropy_bound"] = "entropy_bound"
    bound: float = knob(
        0.1, ge=0, low=1e-3, high=1.5, scale="log", lossy=True, allow_inf_nan=False
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"bound": self.bound}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        order = ordered(rows)
        entropy = rows.extra["entropy"].gather(-1, order)
        error = entropy.cumsum(-1) - entropy.cummax(-1).values
        return (error <= values["bound"][:, None]).gather(-1, order.argsort(-1))

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del progress
        chosen, entropies = set[int](), list[float]()
        for index in surest_first(rows):
            entropies.append(entropy_of(rows[index]))
            if sum(entropies) - max(entropies) > self.bound:
                break
            chosen.add(index)
        return chosen
