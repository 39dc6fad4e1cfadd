"""Blocks that end at a delimiter (AdaBlock-dLLM, arXiv 2509.26432).

Published loops: lgxi24/AdaBlock-dLLM 491b205, `llada/generate_adablock.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from dllmc.policies._base import knob
from dllmc.policies.axes import Schedule
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.rows import Prediction, Rows
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class AdaBlock(Schedule):
    """A block ends with its surest predicted delimiter, if that is sure enough.

    The first evaluation of a block, which also commits, predicts a window of the response. Of the
    masked positions there whose candidate is a delimiter the most probable one ends the block.
    Without one, or if its probability is below the threshold, the block has `block_length`
    positions.

    Attributes:
        block_length: Of a block without a delimiter.
        threshold: Over 1 no delimiter counts, which leaves fixed blocks.
        lookahead: Share of the response that is looked at for delimiters.
        delimiters: Token ids, such as those of a line's or a sentence's end.
    """

    adapts: ClassVar[bool] = True
    excludes: ClassVar[Mapping[str, str]] = {
        "plans_block": (
            "an adaptive block's length is known only after its first evaluation, and the commit "
            "policy shares the block over its evaluations; use 'threshold'"
        )
    }
    kind: Literal["adablock"] = "adablock"
    block_length: int = knob(32, gt=0, choices=(8, 16, 32, 64), lossy=True)
    threshold: float = knob(0.3, gt=0, low=0.1, high=0.8, lossy=True, allow_inf_nan=False)
    lookahead: float = knob(0.25, ge=0, le=1, low=0.1, high=0.5, lossy=True)
    delimiters: tuple[int, ...] = ()

    def check_model(self, spec: DenoiserSpec) -> None:
        for token in self.delimiters:
            if not 0 <= token < spec.vocab_size or token == spec.mask_id:
                raise ConfigError(
                    f"`schedule.delimiters` holds {token}, which the model never predicts; give "
                    f"ids of tokens from 0 to {spec.vocab_size - 1} but the mask {spec.mask_id}"
                )

    def blocks(self, response_length: int) -> list[tuple[int, int]]:
        """Those of a response without delimiters."""
        starts = range(0, response_length, self.block_length)
        return [(start, min(start + self.block_length, response_length)) for start in starts]

    def window(self, offset: int, response_length: int) -> int:
        wanted = max(self._seen(response_length), self.block_length)
        return min(wanted, response_length - offset)

    def values(self, progress: BlockProgress) -> dict[str, float]:
        usual = min(self.block_length, progress.masks)
        return {
            "doubt": (1 - self.threshold) / self.threshold,
            "seen": self._seen(progress.response) if progress.step == 0 else 0,
            # The end of a block that has begun stays where it is.
            "length": usual if progress.step == 0 else progress.response,
        }

    def end(self, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        start = rows.positions[:, :1]
        found = rows.masked & (rows.positions - start < values["seen"][:, None])
        found &= rows.tail <= values["doubt"][:, None]
        ends = torch.zeros_like(found)
        for token in self.delimiters:
            ends |= rows.ids == token
        found &= ends
        surest = torch.where(found, rows.tail, torch.inf).argmin(-1, keepdim=True)
        length = (rows.positions - start).gather(-1, surest)[:, 0] + 1
        usual = values["length"].long()
        return start[:, 0] + torch.where(found.any(-1), length, usual)

    def end_oracle(self, rows: Sequence[Prediction], progress: BlockProgress) -> int:
        start = rows[0].position
        limit = start + self._seen(progress.response)
        found = [
            row
            for row in rows
            if row.masked and row.position < limit and row.candidate in self.delimiters
            if self.threshold * row.tail_mass <= 1 - self.threshold
        ]
        if not found:
            return start + min(self.block_length, progress.masks)
        return min(found, key=lambda row: row.tail_mass).position + 1

    def _seen(self, response_length: int) -> int:
        return int(self.lookahead * response_length)

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        del spec
        return False  # which tokens delimit depends on the tokenizer
