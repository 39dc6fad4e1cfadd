"""Commit the best of each gap (dInfer's hierarchical decoding, arXiv 2510.08666)."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Hierarchy(Commit):
    """The surest row of every run of adjacent masks, if it is not too unsure, and the very sure.

    So gaps are halved again and again, and what commits together is seldom adjacent.

    Attributes:
        threshold: A probability over it commits anyhow; 1 lets none.
        low: What the best of a run must exceed; 0 asks nothing of it.
    """

    needs_odds: ClassVar[bool] = True
    kind: Literal["hierarchy"] = "hierarchy"
    threshold: float = knob(0.92, gt=0, le=1, low=0.5, high=0.99, lossy=True)
    low: float = knob(0.62, ge=0, le=1, low=0.2, high=0.8, lossy=True)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        low = (1 - self.low) / self.low if self.low > 0 else float("inf")
        return {"doubt": (1 - self.threshold) / self.threshold, "low": low}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        limit, low = (values[name][:, None] for name in ("doubt", "low"))
        doubt = torch.where(rows.eligible, rows.doubt, torch.inf)
        run = _runs(rows)
        # Runs are counted from 1: what stands before the first has a place of its own.
        least = torch.full_like(F.pad(doubt, (0, 1)), torch.inf)
        least = least.scatter_reduce(-1, run, doubt, "amin").gather(-1, run)
        return ((doubt == least) & (doubt < low)) | (doubt < limit)

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        del progress
        # Positions and their indices grow alike within a run.
        offsets = [row.position - index for index, row in enumerate(rows)]
        chosen = {i for i, row in enumerate(rows) if _exceeds(row, self.threshold)}
        for _, run in itertools.groupby(range(len(rows)), key=lambda index: offsets[index]):
            members = list(run)
            least = min(rows[i].doubt for i in members)
            best = {i for i in members if rows[i].doubt == least}
            chosen |= {i for i in best if _exceeds(rows[i], self.low)}
        return chosen


def _runs(rows: Rows) -> Tensor:
    """Number of the last run of adjacent eligible rows that has begun, `[N, L]` int64."""
    adjacent = rows.positions.diff(dim=-1) == 1
    joined = rows.eligible[:, 1:] & rows.eligible[:, :-1] & adjacent
    return (rows.eligible & ~F.pad(joined, (1, 0))).cumsum(-1)


def _exceeds(row: Prediction, threshold: float) -> bool:
    # 1 / (1 + doubt) > threshold, without rounding a small doubt away.
    return threshold * row.doubt < 1 - threshold
