"""What beliefs that mix tokens have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Belief
from dllmc.policies.rows import Remembered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllmc.policies.rows import Rows
    from dllmc.spec import DenoiserSpec


class Mixing(Belief):
    """Masked rows are fed the mask mixed with the tokens that were predicted for them.

    Attributes:
        top: How many tokens; what the others weigh stands on the mask.
    """

    excludes: ClassVar[Mapping[str, str]] = {
        "drafts": (
            "a draft is verified as if masks were fed, and this belief feeds what each step "
            "predicts; use `belief.kind`='mask'"
        )
    }
    top: int = knob(16, gt=0, le=256, choices=(4, 8, 16, 32, 64), lossy=True, structural=True)

    @property
    def width(self) -> int:
        return self.top + 1

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({f"top{self.top}"})

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        del spec
        return {
            "belief.ids": Remembered((self.width,), "int64", 0),
            "belief.weights": Remembered((self.width,), "float32", 0),
        }


def mixing(rows: Rows, of_mask: Tensor, ids: Tensor, weights: Tensor) -> Rows:
    """Rows that remember, where they are masked, what to feed them next.

    Args:
        rows: Of the evaluation.
        of_mask: `[N, L]`, weight of the mask.
        ids: `[N, L, k]`.
        weights: `[N, L, k]`, of these tokens.
    """
    memory, masked = rows.memory, rows.masked[..., None]
    mask = torch.full_like(ids[..., :1], rows.mask_id)
    mixed = torch.cat((of_mask[..., None], weights), -1).to(memory["belief.weights"].dtype)
    return rows.remembering(
        belief__ids=torch.where(masked, torch.cat((mask, ids), -1), memory["belief.ids"]),
        belief__weights=torch.where(masked, mixed, memory["belief.weights"]),
    )
