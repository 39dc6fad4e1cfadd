"""Stop deciding when predictions no longer change (LRD, arXiv 2510.11052)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies._divergence import Tops, mean_divergence, mean_divergence_of, tops, tops_of
from dllmc.policies.axes import Stop
from dllmc.policies.rows import Remembered
from dllmc.policies.stop.eos import EosStop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec

_EOS = EosStop()


class KlStop(Stop):
    """A block's rows all commit once a commit has hardly changed what they predict.

    The divergence is the mean over the eligible rows, between two evaluations of the block with
    a commit in between. A response ends at a token that ends it, as with `eos`.

    Attributes:
        threshold: Of the mean divergence, in nats.
        top: Tokens that are compared; the others count as one.
    """

    cuts: ClassVar[bool] = True
    excludes: ClassVar[Mapping[str, str]] = {
        "pipelined": "it decodes several blocks at once, and this fills one after the other",
        "slides": "the window moves with every commit, and this compares those of one block",
    }
    kind: Literal["kl"] = "kl"
    threshold: float = knob(0.1, ge=0, low=1e-3, high=0.5, scale="log", lossy=True)
    top: int = knob(16, gt=0, le=256, choices=(4, 8, 16, 32, 64), lossy=True, structural=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"top{self.top}"})

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        del spec
        return {
            "stop.ids": Remembered((self.top,), "int64", 0),
            "stop.logps": Remembered((self.top,), "float32", -math.inf),
            "stop.decided": Remembered((), "int64", 0, "sequence"),
        }

    def values(self, progress: BlockProgress) -> dict[str, float]:
        return {
            "threshold": self.threshold,
            "first": progress.step == 0,
            "decided": progress.masks - progress.remaining,
        }

    def finished(self, response: Tensor, mask_id: int, eos_ids: Tensor) -> Tensor:
        return _EOS.finished(response, mask_id, eos_ids)

    def oracle(self, response: Sequence[int], mask_id: int, eos_ids: Sequence[int]) -> bool:
        return _EOS.oracle(response, mask_id, eos_ids)

    def fills(self, rows: Rows, values: Mapping[str, Tensor]) -> tuple[Rows, Tensor | None]:
        memory, now = rows.memory, tops(rows, self.top)
        before = Tops(memory["stop.ids"], memory["stop.logps"])
        decided = values["decided"].long()
        moved = (values["first"] == 0) & (decided > memory["stop.decided"])
        still = mean_divergence(rows.eligible, before, now) < values["threshold"]
        kept = rows.eligible[..., None]
        rows = rows.remembering(
            stop__ids=torch.where(kept, now.ids, before.ids),
            stop__logps=torch.where(kept, now.logps.to(before.logps.dtype), before.logps),
            stop__decided=decided,
        )
        return rows, moved & still

    def fills_oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> bool:
        now = {row.position: tops_of(row, self.top) for row in rows}
        before = memory.setdefault("tops", {})
        change = mean_divergence_of(now, before, now)
        decided, last = progress.masks - progress.remaining, memory.get("decided", 0)
        before.update(now)
        memory["decided"] = decided
        return progress.step > 0 and decided > last and change < self.threshold
