"""No cache: every evaluation covers all that a row can see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dllmc.policies.axes import Cache
from dllmc.policies.standing import Evaluation

if TYPE_CHECKING:
    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec


class NoCache(Cache):
    """What quality is compared with."""

    kind: Literal["none"] = "none"
    refresh_every: None = None

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        del spec
        return Evaluation(range(standing.reach), range(*standing.block), refresh=True)

    def room(self, standing: Standing, spec: DenoiserSpec) -> int:
        del spec
        return len(standing.masked)

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        del spec
        return set(range(standing.reach)), set(range(*standing.block)), True
