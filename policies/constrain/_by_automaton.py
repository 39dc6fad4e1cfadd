"""Candidates that an automaton allows: the most probable string of the block (DINGO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from dllmc.policies.axes import Constrain
from dllmc.policies.constrain._oracle import most_probable_oracle
from dllmc.policies.constrain._viterbi import most_probable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dllmc.policies.constrain._automaton import TokenAutomaton
    from dllmc.policies.rows import Prediction, Rows

_OTHER = "it puts other tokens in place of those that the constraint allows"
_WHOLE = "the constraint is over the whole block, and only some of its rows are evaluated"


class ByAutomaton(Constrain):
    """In every evaluation the candidates are the most probable string that can be completed.

    Tokens that are committed stay in it, so that what commits at any time is part of an allowed
    text, which is completed within the response.
    """

    free: ClassVar[bool] = False
    excludes: ClassVar[Mapping[str, str]] = {
        "temperature": "the most probable allowed string is taken, not drawn; use `temperature`=0",
        "score.credit": _OTHER,
        "revise.edit": _OTHER,
        "revise.remask": _OTHER,
        "verify.specdiff": "the output is the auxiliary model's, which knows of no constraint",
        "masked rows": _WHOLE,
        "pipelined": "the text must be known up to where a block begins",
        "stop.eot": "it ends the response where the text may not be complete",
    }

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logits"})

    def candidates(
        self, rows: Rows, values: Mapping[str, Tensor], automaton: TokenAutomaton
    ) -> Rows:
        logits = rows.extra["all"]
        inside = rows.offered & (rows.positions < values["end"][:, None])
        found, _ = most_probable(
            logits,
            torch.where(rows.masked, -1, rows.tokens),
            values["state"],
            values["remaining"],
            automaton,
            inside,
        )
        ids = torch.where(inside & rows.masked & (found >= 0), found, rows.ids)
        chosen = logits.gather(-1, ids[..., None])
        tokens = torch.arange(logits.shape[-1], device=logits.device)
        others = torch.where(tokens == ids[..., None], -torch.inf, logits - chosen)
        tail = torch.where(ids == rows.ids, rows.tail, others.exp().sum(-1).to(rows.tail.dtype))
        return rows.having(ids=ids, logits=chosen[..., 0], tail=tail, doubt=tail)

    def candidates_oracle(
        self,
        rows: Sequence[Prediction],
        state: int,
        remaining: int,
        end: int,
        automaton: TokenAutomaton,
    ) -> list[Prediction]:
        import numpy as np

        inside = [row for row in rows if row.position < end]
        found, _ = most_probable_oracle(
            [row.logits.tolist() for row in inside],
            [-1 if row.masked else row.token for row in inside],
            state,
            remaining,
            automaton,
        )
        chosen = []
        for row, token in zip(inside, found, strict=True):
            if not row.masked or token < 0 or token == row.candidate:
                chosen.append(row)
                continue
            with np.errstate(over="ignore"):
                mass = float(np.exp(np.delete(row.logits, token) - row.logits[token]).sum())
            logit = float(row.logits[token])
            chosen.append(row.having(candidate=token, logit=logit, tail_mass=mass, doubt=mass))
        return [*chosen, *rows[len(inside) :]]
