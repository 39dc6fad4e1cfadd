"""Cut the response where its end is predicted (Learn2PD's EoTP, arXiv 2509.25188)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Stop
from dllmc.policies.stop.eos import EosStop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress

_EOS = EosStop()
_NOWHERE = torch.iinfo(torch.int64).max


class EndOfText(Stop):
    """The response ends with an end-of-sequence token that commits, or is predicted.

    If one commits, with the first of them. Else with the one that is predicted at a masked row of
    the block with the highest probability, if this is at least `confidence`: that row stays
    masked, and what lies behind it is decoded no more. Finished as with `eos`.

    The published loop without a cache looks at predictions behind the block too.
    """

    cuts: ClassVar[bool] = True
    kind: Literal["eot"] = "eot"
    confidence: float = knob(0.0, ge=0, le=1, low=0.0, high=0.9, lossy=True)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        if self.confidence == 0:
            return {"doubt": math.inf}
        # A confidence under 3e-39 would have an infinite limit in float32, which a tail that
        # overflows meets too.
        limit = (1 - self.confidence) / self.confidence
        return {"doubt": min(limit, torch.finfo(torch.float32).max)}

    def finished(self, response: Tensor, mask_id: int, eos_ids: Tensor) -> Tensor:
        return _EOS.finished(response, mask_id, eos_ids)

    def oracle(self, response: Sequence[int], mask_id: int, eos_ids: Sequence[int]) -> bool:
        return _EOS.oracle(response, mask_id, eos_ids)

    def cut(
        self, rows: Rows, committed: Tensor, eos_ids: Tensor, values: Mapping[str, Tensor]
    ) -> Tensor | None:
        ends = torch.isin(rows.ids, eos_ids)
        first = torch.where(committed & ends, rows.positions, _NOWHERE).amin(-1)
        sure = rows.masked & ends & (rows.tail <= values["doubt"][:, None])
        finite = rows.tail.clamp(max=torch.finfo(rows.tail.dtype).max)
        best = torch.where(sure, finite, torch.inf).argmin(-1, keepdim=True)
        predicted = torch.where(sure, rows.positions, _NOWHERE).gather(-1, best).squeeze(-1)
        last = torch.where(first < _NOWHERE, first, predicted)
        return torch.where(last < _NOWHERE, last + 1, last)

    def cut_oracle(
        self,
        rows: Sequence[Prediction],
        committed: set[int],
        eos_ids: Sequence[int],
        progress: BlockProgress,
    ) -> int | None:
        del progress
        ends = [row for row in rows if row.candidate in eos_ids]
        first = min((row.position for row in ends if row.position in committed), default=None)
        if first is not None:
            return first + 1
        sure = [row for row in ends if row.masked and self._suffices(row)]
        best = min(sure, key=lambda row: (row.tail_mass, row.position), default=None)
        return None if best is None else best.position + 1

    def _suffices(self, row: Prediction) -> bool:
        # 1 / (1 + tail mass) >= confidence, without rounding a small tail away.
        sure = self.confidence * row.tail_mass <= 1 - self.confidence
        return self.confidence == 0 or sure
