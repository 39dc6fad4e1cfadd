"""Adaptive Parallel Decoding (APD, arXiv 2506.00413): a small causal model says how many commit.

Candidates commit from left to right as long as they are also what a mixture of the two models
would take, `p_denoiser ** mixture * p_auxiliary ** (1 - mixture)`, drawn with the same noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch

from dllmc.policies._base import knob
from dllmc.policies._hash import gumbel, gumbel_of
from dllmc.policies.axes import Verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Apd(Verify):
    """The first candidate commits, and those after it up to the first that the mixture refuses.

    Attributes:
        mixture: Weight of the denoiser; 1 accepts everything, 0 asks the auxiliary model alone.
        coupling: Whether the mixture draws with the noise of the candidates (`shared`, as the
            paper says), or takes its most probable token (`greedy`, as the released code does).
            The same at a temperature of 0.
        temperature: Of the candidates, which the mixture draws at.
    """

    auxiliary: ClassVar[Literal["step", "block"] | None] = "step"
    excludes: ClassVar[Mapping[str, str]] = {
        "any order": "it commits from left to right; use `commit.kind`='leftmost'",
        "several": "the mixture says how many commit; use `commit.tokens`=1",
        "score.credit": "it changes candidates, and the mixture is of the model's own logits",
        "pipelined": "it commits from left to right, and a pipeline decodes blocks side by side",
    }
    kind: Literal["apd"] = "apd"
    mixture: float = knob(0.7, ge=0, le=1, low=0.3, high=0.9, lossy=True)
    coupling: Literal["shared", "greedy"] = knob(
        "shared", choices=("shared", "greedy"), lossy=True, structural=True
    )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"logits"})

    def values(self, progress: BlockProgress) -> dict[str, float]:
        del progress
        return {"mixture": self.mixture}

    def accept(self, rows: Rows, committed: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        share = values["mixture"][:, None, None]
        mixed = share * rows.extra["all"] + (1 - share) * rows.extra["auxiliary"]
        if rows.temperature is not None and self.coupling == "shared":
            places = rows.positions if rows.noised is None else rows.noised
            noise = gumbel(rows.counters, places, mixed.shape[-1])
            mixed = mixed + rows.temperature[:, None, None] * noise
        tokens = torch.arange(mixed.shape[-1], device=mixed.device)
        taken = torch.where(tokens == rows.mask_id, -torch.inf, mixed).argmax(-1)
        first = committed.int().argmax(dim=-1, keepdim=True)
        order = torch.arange(committed.shape[1], device=mixed.device)
        refused = (taken != rows.ids) | ~rows.eligible
        # What stands before the first, and the first itself, cannot be refused.
        refused = refused & (order > first)
        accepted = (refused.cumsum(dim=-1) == 0) & (order >= first) & rows.eligible
        return accepted & committed.any(dim=-1, keepdim=True)

    def accept_oracle(
        self, rows: Sequence[Prediction], committed: set[int], said: Sequence[NDArray[np.float64]]
    ) -> set[int]:
        found: set[int] = set()
        for row, other in zip(rows, said, strict=True):
            mixed = self.mixture * row.logits + (1 - self.mixture) * other
            if row.temperature > 0 and self.coupling == "shared":
                noise = gumbel_of(row.counters, row.noised, len(mixed))
                mixed = mixed + row.temperature * np.array(noise)
            mixed[row.mask_id] = -np.inf
            follows = row.position - 1 in found
            if found and not (follows and int(mixed.argmax()) == row.candidate):
                return found
            if found or row.position in committed:
                found.add(row.position)
        return found

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # Only the engine knows whether there is an auxiliary model.
        del spec
        return False
