"""Block-causal cache (SDAR, arXiv 2510.06303; Fast-dLLM v2, arXiv 2509.26328).

With block-causal attention the keys of finished blocks do not depend on what follows, so that
once evaluated with their final tokens they are exact and stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Cache
from dllmc.policies.standing import Evaluation
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec


class BlockCausalCache(Cache):
    """Only the block of the model's attention is evaluated; finished blocks are appended.

    Attributes:
        append: A finished block is evaluated once more with its final tokens: `apart`, in an
            evaluation of its own, from which a model with shifted logits commits the next
            block's first token, as published; or `joined` with the first evaluation of the next
            block, which saves one evaluation per block. A first position that is left masked then
            is predicted by the row before it, which is evaluated with the block.
        within: Rows evaluated: the attention `block`; or the `sub_block` of the schedule alone,
            and the attention block only at first and while the sub-block's first position is
            masked (the block cache of Fast-dLLM v2). Keys of the other rows are then stale.
    """

    kind: Literal["block_causal"] = "block_causal"
    append: Literal["apart", "joined"] = knob("apart", choices=("apart", "joined"), lossy=True)
    within: Literal["block", "sub_block"] = knob(
        "block", choices=("block", "sub_block"), lossy=True
    )

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        start, end = standing.outer
        pending = standing.exact < start
        leads = self._leads(standing, spec)
        if pending and self.append == "apart":
            return Evaluation(range(standing.exact, start), range(start, start + leads), False)
        if pending:
            return Evaluation(range(standing.exact, end), range(*standing.block), False)
        whole = self.within == "block" or standing.outer_steps == 0 or standing.first_masked
        rows = (start - leads, end) if whole else standing.whole
        return Evaluation(range(*rows), range(*standing.block), whole)

    def room(self, standing: Standing, spec: DenoiserSpec) -> int:
        narrows = self.within == "sub_block" and (
            standing.outer_steps == 0 or standing.first_masked
        )
        pending = standing.exact < standing.outer[0]
        moves = pending or narrows or self._leads(standing, spec)
        return 1 if moves else len(standing.masked)

    def _leads(self, standing: Standing, spec: DenoiserSpec) -> bool:
        """Whether the row before the block predicts the block's first position."""
        begins = standing.block[0] == standing.outer[0]
        return begins and spec.logit_shift > 0 and standing.first_masked

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        start, end = standing.outer
        unfinished = set(range(start, end))
        finished = {position for position in range(start) if position >= standing.exact}
        offered = set(range(*standing.block))
        if finished and self.append == "joined":
            return finished | unfinished, offered, False
        if finished:
            shifted = bool(spec.logit_shift) and start in offered and standing.first_masked
            return finished, {start} if shifted else set(), False
        narrow = self.within == "sub_block"
        if narrow and standing.outer_steps > 0 and not standing.first_masked:
            return set(range(*standing.whole)), offered, False
        predicts_first = bool(spec.logit_shift) and start in offered and standing.first_masked
        return unfinished | ({start - 1} if predicts_first else set()), offered, True

    def check_model(self, spec: DenoiserSpec) -> None:
        if spec.attention != "block_causal":
            raise ConfigError(
                f"`cache.kind`='block_causal' needs block-causal attention and this model's is "
                f"{spec.attention!r}; use 'dual' or 'prefix'"
            )
