"""Some evaluations of what is still masked alone (ReCAP, arXiv 2505.19089).

The paper groups the steps of masked image models; no code is published. Here a group ends with
its block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Cache
from dllmc.policies.standing import Evaluation

if TYPE_CHECKING:
    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec


class PartialCache(Cache):
    """Between full evaluations, some of the block's masked rows alone.

    Keys of rows that were committed since the last full evaluation stay those of masks. With
    shifted logits the rows that predict the masked ones are evaluated too.

    Attributes:
        local_steps: Such evaluations after each full one; 0 caches nothing.
    """

    traits: ClassVar[frozenset[str]] = frozenset({"history", "masked rows"})
    kind: Literal["partial"] = "partial"
    local_steps: int = knob(2, ge=0, low=0, high=4, lossy=True)

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        block = range(*standing.block)
        masked = [position for position in block if position in standing.masked]
        if standing.step == 0 or standing.since_refresh > self.local_steps or not masked:
            return Evaluation(range(standing.reach), block, True)
        rows = sorted({*masked, *(position - spec.logit_shift for position in masked)})
        return Evaluation(tuple(rows), tuple(masked), False)

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        block = set(range(*standing.block))
        undecided = block & standing.masked
        local = 1 <= standing.since_refresh <= self.local_steps
        if standing.step > 0 and local and undecided:
            predicting = {position - spec.logit_shift for position in undecided}
            return undecided | predicting, undecided, False
        return set(range(standing.reach)), block, True
