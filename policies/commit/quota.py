"""A fixed number of tokens per evaluation (LLaDA's `generate`, `get_num_transfer_tokens`)."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Commit
from dllmc.policies.progress import rank, surest_first
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress


class Quota(Commit):
    """`steps` evaluations for the whole response, shared evenly; None is one token each.

    A block of m masks with s steps commits m // s tokens per step, and one more in each of the
    first m % s steps.
    """

    foreseen: ClassVar[bool] = True
    kind: Literal["quota"] = "quota"
    steps: int | None = knob(None, gt=0, low=1, high=1024, scale="log", lossy=True)

    @property
    def properties(self) -> frozenset[str]:
        plans = set() if self.steps is None else {"plans_block", "counts_blocks"}
        return super().properties | plans

    def count(self, progress: BlockProgress) -> int:
        """Tokens to commit in this evaluation."""
        if self.steps is None:
            return 1
        base, remainder = divmod(progress.masks, self.steps // progress.blocks)
        return base + (progress.step < remainder)

    def coming(self, ranked: Sequence[int], progress: BlockProgress) -> Sequence[int]:
        return ranked[: max(1, self.count(progress))]

    def drafts(self, progress: BlockProgress, lanes: int) -> list[int]:
        steps = (dataclasses.replace(progress, step=progress.step + i) for i in range(lanes - 1))
        return list(itertools.accumulate(map(self.count, steps), initial=0))

    def values(self, progress: BlockProgress) -> dict[str, float]:
        return {"count": self.count(progress)}

    def select(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        return rank(rows) < values["count"][:, None]

    def oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> set[int]:
        return set(surest_first(rows)[: self.count(progress)])

    def check(self, response_length: int, blocks: int) -> None:
        if self.steps is not None and self.steps % blocks:
            lower = self.steps - self.steps % blocks
            hint = f"{lower} or {lower + blocks}" if lower else f"{blocks}"
            raise ConfigError(
                f"`commit.steps`={self.steps} does not divide over {blocks} blocks of a response "
                f"of {response_length} tokens; use {hint}"
            )
