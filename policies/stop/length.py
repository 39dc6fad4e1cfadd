"""Decode the whole canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies.axes import Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class LengthStop(Stop):
    """Finished when no mask is left."""

    kind: Literal["length"] = "length"

    def finished(self, response: Tensor, mask_id: int, eos_ids: Tensor) -> Tensor:
        del eos_ids
        return (response != mask_id).all(dim=-1)

    def oracle(self, response: Sequence[int], mask_id: int, eos_ids: Sequence[int]) -> bool:
        del eos_ids
        return mask_id not in response
