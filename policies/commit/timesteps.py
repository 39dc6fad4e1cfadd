"""Commit by the timesteps of a diffusion process (Dream's `_sample`, arXiv 2508.15487)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit
from dllmc.policies.progress import rank, surest_first

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class Timesteps(Commit):
    """Of n masks, n (1 - s / t), rounded down, on the way from time t to s; all of them at last.

    Times fall evenly from 1 to `eps` in `steps`, in float32 as published. Rounding down may leave
    nothing for an evaluation to commit; it is made all the same.

    Attributes:
        steps: Evaluations of a block; None is one per position of it.
        eps: The last time.
    """

    kind: Literal["timesteps"] = "timesteps"
    may_wait: ClassVar[bool] = True
    traits: ClassVar[frozenset[str]] = frozenset({"plans_block", "counts_steps"})
    steps: int | None = knob(None, gt=0, le=4096, low=1, high=1024, scale="log", lossy=True)
    eps: float = knob(1e-3, gt=0, lt=1, low=1e-4, high=1e-1, scale="log", lossy=True)

    def count(self, progress: BlockProgress) -> int:
        """Tokens to commit in this evaluation."""
        steps = progress.masks if self.steps is None else self.steps
        if progress.step >= steps - 1:
            return progress.remaining
        times = torch.linspace(1, self.eps, steps + 1)
        now, then = times[progress.step], times[progress.step + 1]
        return int(torch.tensor(float(progress.remaining)) * (1 - then / now))

    def values(self, progress: BlockProgress) -> dict[str, float]:
        return {"count": self.count(progress)}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        return rank(rows) < values["count"][:, None]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        return set(surest_first(rows)[: self.count(progress)])

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        return bool(spec.logit_shift)
