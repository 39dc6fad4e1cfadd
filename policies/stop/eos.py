"""Stop at the end of the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies.axes import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class EosStop(Stop):
    """Finished when an end-of-sequence token has no mask before it, or no mask is left."""

    cuts: ClassVar[bool] = True
    kind: Literal["eos"] = "eos"

    def finished(self, response: Tensor, mask_id: int, eos_ids: Tensor) -> Tensor:
        masked = response == mask_id
        settled = masked.cumsum(dim=-1) == 0
        return (torch.isin(response, eos_ids) & settled).any(dim=-1) | ~masked.any(dim=-1)

    def oracle(self, response: Sequence[int], mask_id: int, eos_ids: Sequence[int]) -> bool:
        for token in response:
            if token == mask_id:
                return False
            if token in eos_ids:
                return True
        return True
