"""Ask for less beside what is sure (LocalLeap, arXiv 2510.07081)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class LocalLeap(Commit):
    """Every row whose probability is at least `threshold`, or `relaxed` beside such a row.

    Attributes:
        threshold: What reaches it is an anchor.
        relaxed: Threshold of rows within `radius` of an anchor, and of the anchor. What it lets
            through is no anchor in the same evaluation.
        radius: Positions to either side; 0 asks the same of all.
    """

    needs_odds: ClassVar[bool] = True
    kind: Literal["local_leap"] = "local_leap"
    threshold: float = knob(0.9, gt=0, le=1, low=0.8, high=0.98, lossy=True)
    relaxed: float = knob(0.75, gt=0, le=1, low=0.5, high=0.9, lossy=True)
    radius: int = knob(4, ge=0, low=1, high=8, lossy=True)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        limits = {"doubt": self.threshold, "relaxed": self.relaxed}
        return {name: (1 - p) / p for name, p in limits.items()} | {"radius": self.radius}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        limit, relaxed, radius = (values[n][:, None] for n in ("doubt", "relaxed", "radius"))
        anchors = rows.eligible & (rows.doubt <= limit)
        distance = (rows.positions[:, :, None] - rows.positions[:, None]).abs()
        near = (anchors[:, None] & (distance <= radius[..., None])).any(-1)
        return rows.doubt <= torch.where(near, relaxed, limit)

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del progress
        anchors = [row.position for row in rows if _reaches(row, self.threshold)]
        chosen = set()
        for index, row in enumerate(rows):
            near = any(abs(row.position - anchor) <= self.radius for anchor in anchors)
            if _reaches(row, self.relaxed if near else self.threshold):
                chosen.add(index)
        return chosen


def _reaches(row: Prediction, threshold: float) -> bool:
    # 1 / (1 + doubt) >= threshold, without rounding a small doubt away.
    return threshold * row.doubt <= 1 - threshold
