"""Sparse-dLLM (arXiv 2508.02558): of the keys outside the block only the salient ones stay.

How salient a key is: its mean product with the block's queries, over queries and heads, pooled
over its neighbours. Each layer keeps its own; published code is `CustomCache.filter_cache`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Refreshing
from dllmc.policies.standing import Evaluation
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec


class SparseCache(Refreshing):
    """Everything is evaluated at a block's start and `delay` more times; then the block alone.

    Attributes:
        ratio: Share of the keys outside the block that stay.
        kernel: Neighbours that saliency is pooled over, by maximum; odd.
        delay: Evaluations of a block before the one that filters.
    """

    traits: ClassVar[frozenset[str]] = frozenset({"filters"})
    excludes: ClassVar[Mapping[str, str]] = {
        "drafts": "drafts are verified on copies of the whole cache, and this one keeps a part",
        "stop.eot": "a response that is cut has fewer keys than were kept",
    }
    kind: Literal["sparse"] = "sparse"
    refresh_every: None = None
    ratio: float = knob(0.5, ge=0, le=1, low=0.1, high=1.0, lossy=True)
    kernel: int = knob(3, gt=0, choices=(1, 3, 5, 7), lossy=True)
    delay: int = knob(1, ge=0, low=0, high=3, lossy=True)

    @property
    def exclusions(self) -> Mapping[str, str]:
        adaptive = {
            "schedule.adablock": "the first evaluation chooses the block, and it cannot filter by "
            "its rows as well; use `cache.delay`=1"
        }
        return {**self.excludes, **({} if self.delay else adaptive)}

    def window(self, block: tuple[int, int], reach: int) -> tuple[int, int]:
        del reach
        return block

    def keeps(self, standing: Standing) -> tuple[float, int] | None:
        return (self.ratio, self.kernel) if standing.step == self.delay else None

    def reads_kept(self, standing: Standing) -> bool:
        return standing.step > self.delay

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        block = range(*standing.block)
        if standing.step > self.delay:
            return Evaluation(block, block, False, kept=True)
        first = self.commits_first(standing, spec)
        keeps = self.keeps(standing)
        head = block[:1] if first and keeps is None else block
        return Evaluation(range(standing.reach), head, True, first_only=first, keeps=keeps)

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        block = set(range(*standing.block))
        if standing.step > self.delay:
            return block, block, False
        offered = {standing.block[0]} if self.commits_first(standing, spec) else block
        return set(range(standing.reach)), offered, True

    def check_model(self, spec: DenoiserSpec) -> None:
        super().check_model(spec)
        if self.kernel % 2 == 0:
            raise ConfigError(f"`cache.kernel`={self.kernel} must be odd")
        if spec.attention != "full":
            raise ConfigError(
                f"`cache.kind`='sparse' is for full attention and this model's is "
                f"{spec.attention!r}; use 'block_causal'"
            )
