"""Tokens that were the best before count for more (CreditDecoding, arXiv 2510.06133).

In every evaluation a masked row's most probable token gains credit, its probability to the power
of `exponent`, and all credit is multiplied by `decay` before. Candidates and doubts are those of
logits + `fusion` * log(1 + credit).

The published form keeps a credit for every token of the vocabulary. Here the `slots` largest of
each row are kept, the smallest giving way: the same as long as no more tokens than that have been
the best at a position. The published form also gives credit to the mask, which no candidate is.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Score
from dllmc.policies.rows import Remembered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dllmc.policies.axes import Memory
    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Credit(Score):
    """Probability of the fused logits.

    A row begins to collect when it is first offered. Statistics that other policies ask for, such
    as entropies, are those of the model's own logits.
    """

    excludes: ClassVar[Mapping[str, str]] = {
        "temperature": "credit is for the most probable token, and a drawn candidate may be "
        "another; use `temperature`=0",
        "carries": "what a refresh carries to a window has no logits of the tokens with credit; "
        "use `cache.window_first`='self'",
    }
    kind: Literal["credit"] = "credit"
    fusion: float = knob(0.7, ge=0, low=0.2, high=1.5, lossy=True, allow_inf_nan=False)
    decay: float = knob(0.8, ge=0, le=1, low=0.4, high=0.95, lossy=True)
    exponent: float = knob(0.2, ge=0, low=0.1, high=1.0, lossy=True, allow_inf_nan=False)
    slots: int = knob(4, gt=0, le=64, choices=(2, 4, 8), lossy=True, structural=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"gather{self.slots}"})

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        del spec
        return {
            "score.ids": Remembered((self.slots,), "int64", 0),
            "score.values": Remembered((self.slots,), "float32", 0),
        }

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"fusion": self.fusion, "decay": self.decay, "exponent": self.exponent}

    def judge(self, rows: Rows, values: Mapping[str, Tensor]) -> Rows:
        ids, credit, gained = _collect(rows, values)
        held = (credit > 0) | gained
        logits = torch.where(gained, rows.logits[..., None], rows.extra["gathered"])
        boost = values["fusion"][:, None, None] * credit.log1p()
        fused = torch.where(held, logits + boost, -torch.inf)
        best = fused.argmax(-1, keepdim=True)
        chosen, logit = ids.gather(-1, best).squeeze(-1), fused.gather(-1, best).squeeze(-1)
        # Weights of all tokens but the chosen, in units of the first candidate's: those of the
        # model, and what credit adds. Nothing is subtracted where that candidate stays.
        weights = torch.where(held, torch.exp(logits - rows.logits[..., None]), 0)
        own = weights.gather(-1, best).squeeze(-1)
        others = torch.where(chosen == rows.ids, rows.tail, rows.tail + (1 - own))
        added = (weights * boost.expm1()).scatter(-1, best, 0).sum(-1)
        tail = (others + added) * torch.exp(rows.logits - logit)
        return rows.having(
            ids=torch.where(rows.masked, chosen, rows.ids),
            logits=torch.where(rows.masked, logit, rows.logits),
            tail=torch.where(rows.masked, tail, rows.tail),
            doubt=torch.where(rows.masked, tail, rows.tail),
        ).remembering(score__ids=ids, score__values=credit)

    def oracle(
        self, rows: Sequence[Prediction], progress: BlockProgress, memory: Memory
    ) -> list[Prediction]:
        del progress
        judged = []
        credits: dict[int, dict[int, float]] = memory.setdefault("credits", {})
        for row in rows:
            credit = credits.setdefault(row.position, {})
            for token in credit:
                credit[token] *= self.decay
            fused = self._fused(row, credit) if row.masked else row
            judged.append(fused.having(doubt=fused.tail_mass))
        return judged

    def _fused(self, row: Prediction, credit: dict[int, float]) -> Prediction:
        """The dense form; `row.logits` stay the model's."""
        best, _, tail = _best(row.logits, row.mask_id)
        if best not in credit and len(credit) == self.slots:
            del credit[min(credit, key=credit.__getitem__)]
        credit[best] = credit.get(best, 0.0) + (1 + tail) ** -self.exponent
        fused = row.logits.copy()
        for token, value in credit.items():
            fused[token] += self.fusion * math.log1p(value)
        candidate, margin, tail = _best(fused, row.mask_id)
        logit = float(fused[candidate])
        return row.having(candidate=candidate, logit=logit, margin=margin, tail_mass=tail)


def _collect(rows: Rows, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens with credit, their credit, and the slots that gain now, `[N, L, slots]` each."""
    ids, credit = rows.memory["score.ids"], rows.memory["score.values"]
    credit = credit * values["decay"][:, None, None]
    # An empty slot has no credit.
    known = (ids == rows.ids[..., None]) & (credit > 0)
    place = torch.where(known, -1, credit).argmin(-1, keepdim=True)
    gained = torch.zeros_like(known).scatter(-1, place, True) & rows.masked[..., None]
    gain = (1 + rows.tail[..., None]) ** -values["exponent"][:, None, None]
    grown = torch.where(known, credit, 0) + gain.to(credit.dtype)
    return (
        torch.where(gained, rows.ids[..., None], ids),
        torch.where(gained, grown, credit),
        gained,
    )


def _best(logits: NDArray[np.float64], mask_id: int | None) -> tuple[int, float, float]:
    """The most probable token but the mask, its lead over the next, and its tail mass."""
    allowed = logits.copy()
    if mask_id is not None:
        allowed[mask_id] = -math.inf
    best = int(allowed.argmax())
    with np.errstate(over="ignore"):  # an infinite tail is a valid one
        tail = float(np.exp(np.delete(logits, best) - logits[best]).sum())
    return best, float(allowed[best] - np.delete(allowed, best).max()), tail
