"""Take back tokens that were unsure (ReMDM, arXiv 2503.00307; HDLM, arXiv 2504.06416).

ReMDM's confidence schedule masks a decided token again the more probably, the less probable it
was when it was decided; HDLM's adaptive correction sampler gives it a fresh one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies._hash import uniform, uniform_of
from dllmc.policies.axes import Revise, Revision
from dllmc.policies.rows import Remembered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec

# Beyond every canvas: the numbers of these positions are drawn for nothing else.
_AWAY = 1 << 24


class Remask(Revise):
    """A token of the block of probability p when it was committed is revised with eta (1 - p).

    Attributes:
        how: It is masked again (`remask`), or gives way to the candidate of now (`resample`).
        eta: Probability of revising a token that had none.
        steps: Evaluations of a block that may revise, its first ones; then it is finished.
    """

    reopens: ClassVar[bool] = True
    excludes: ClassVar[Mapping[str, str]] = {
        "drafts": "a draft that is accepted stays, and this takes tokens back",
        "pipelined": "blocks begin by how much of others is decided, and this takes tokens back",
    }
    kind: Literal["remask"] = "remask"
    how: Literal["remask", "resample"] = knob(
        "remask", choices=("remask", "resample"), lossy=True, structural=True
    )
    eta: float = knob(0.015, ge=0, le=1, low=0.0, high=0.1, lossy=True)
    steps: int = knob(16, ge=0, le=4096, low=0, high=64, lossy=True)

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        del spec
        return {"revise.doubt": Remembered((), "float32", 0)}

    def values(self, progress: BlockProgress) -> dict[str, float]:
        return {"eta": self.eta if progress.step < self.steps else 0}

    def select(
        self, rows: Rows, committed: Tensor, values: Mapping[str, Tensor]
    ) -> tuple[Rows, Revision]:
        doubt = rows.memory["revise.doubt"]
        drawn = uniform(rows.counters, rows.positions + _AWAY)
        hit = rows.offered & ~rows.masked & (drawn < values["eta"][:, None] * doubt)
        nothing = torch.zeros_like(committed)
        revision = Revision(nothing, hit)
        if self.how == "resample":
            revision = Revision(hit & (rows.ids != rows.tokens), nothing)
        fresh = (1 / (1 + 1 / rows.tail)).to(doubt.dtype)
        kept = torch.where(committed | revision.replaced, fresh, doubt)
        return rows.remembering(revise__doubt=kept), revision

    def oracle(
        self,
        rows: Sequence[Prediction],
        committed: set[int],
        progress: BlockProgress,
        memory: Memory,
    ) -> tuple[set[int], set[int]]:
        eta = self.eta if progress.step < self.steps else 0
        doubts = memory.setdefault("doubts", {})
        hit = {
            row.position
            for row in rows
            if not row.masked
            and uniform_of(row.counters, row.position + _AWAY) < eta * doubts.get(row.position, 0)
        }
        replaced = set[int]()
        if self.how == "resample":
            replaced = {r.position for r in rows if r.position in hit and r.candidate != r.token}
        for row in rows:
            if row.position in committed | replaced:
                doubts[row.position] = 1 - 1 / (1 + row.tail_mass)
        return (replaced, set()) if self.how == "resample" else (set(), hit)
