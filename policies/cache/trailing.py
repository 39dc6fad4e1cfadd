"""What was just decided is evaluated once more, with a little of what stands before it.

The cache of APD (arXiv 2506.00413; released code danielmisrael/apd a555561, whose `kv_window` is
`length` here).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Cache
from dllmc.policies.standing import Evaluation
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec

_ROWS = "it asks about committed rows of the block, and this cache does not evaluate these"


class TrailingCache(Cache):
    """Everything at first; then from shortly before what the last evaluation began with, onwards.

    What stands before keeps the keys and values it had: those of its tokens, since it was
    evaluated again after it was committed, but of fewer tokens behind it. With a `length` of 0
    the first token that an evaluation commits keeps those of its mask.

    Attributes:
        length: Rows that are evaluated up to the first masked one of the last evaluation, with
            it; None is everything.
    """

    traits: ClassVar[frozenset[str]] = frozenset({"history", "masked rows"})
    excludes: ClassVar[Mapping[str, str]] = {
        "revise.edit": _ROWS,
        "revise.remask": _ROWS,
        "score.learned_filter": _ROWS,
        "pipelined": "which rows were masked before says nothing of a block that was just begun",
    }
    kind: Literal["trailing"] = "trailing"
    length: int | None = knob(16, ge=0, choices=(None, 0, 1, 4, 16, 64), lossy=True)

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        del spec
        head = tuple(p for p in range(*standing.block) if p in standing.masked)
        if self.length is None or standing.evaluations == 0:
            return Evaluation(range(standing.reach), head, True)
        behind = min(standing.was_masked, default=standing.block[0]) + 1 - self.length
        # Whatever is still masked is evaluated.
        start = max(0, min((behind, *standing.masked)))
        return Evaluation(range(start, standing.reach), head, False)

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        del spec
        seen = set(range(standing.reach))
        head = {
            position for position in seen & standing.masked if self._within(position, standing)
        }
        if standing.evaluations == 0 or self.length is None:
            return seen, head, True
        first = min(standing.was_masked, default=standing.block[0])
        trailed = {position for position in seen if position > first - self.length}
        late = {position for position in seen if any(p <= position for p in standing.masked)}
        return trailed | late, head, False

    def _within(self, position: int, standing: Standing) -> bool:
        return standing.block[0] <= position < standing.block[1]

    def check_model(self, spec: DenoiserSpec) -> None:
        if spec.attention != "full":
            raise ConfigError(
                "`cache.kind`='trailing' is for full attention and this model's is "
                f"{spec.attention!r}; use 'block_causal'"
            )

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # It goes with a window that slides, which the tuner does not try.
        del spec
        return False
