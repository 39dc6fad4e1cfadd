"""dKV-Cache-Greedy (arXiv 2505.15781): rows that commit now, that just did, and their neighbours.

What commits must be known before it is evaluated, and so the order of tokens is drawn beforehand
(`score.kind`='order'). Published code is `llada_dkv_cache_greedy.py` of horseee/dKV-Cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies.axes import Cache
from dllmc.policies.standing import Evaluation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.policies.standing import Standing
    from dllmc.spec import DenoiserSpec

_FORESEES = "it evaluates little but the rows that will commit, and must know them before; use "
_ROWS = "it asks about committed rows of the block, and this cache does not evaluate these"


class GreedyDkvCache(Cache):
    """The tokens of the last evaluation and of this one, with some masks around these.

    A block's first evaluation covers everything. With shifted logits the rows that predict the
    tokens to commit are evaluated too. A `window` as wide as the canvas evaluates what `dkv` does
    between its refreshes, and with a `refresh_every` of 1 nothing is cached.

    Attributes:
        refresh_every: Evaluate everything again every so many evaluations of a block; None is
            never.
        window: Masked rows evaluated with each that will commit: the nearest ones, those before
            it first, wherever they stand.
    """

    traits: ClassVar[frozenset[str]] = frozenset({"history", "masked rows"})
    excludes: ClassVar[Mapping[str, str]] = {
        "order not foreseen": f"{_FORESEES}`score.kind`='order'",
        "commits not foreseen": f"{_FORESEES}`commit.kind`='quota' or 'leftmost'",
        "revise.edit": _ROWS,
        "revise.remask": _ROWS,
        "schedule.lookahead": "rows that the window has just reached have no keys yet, and this "
        "cache need not evaluate them",
        "stop.kl": "it commits all that is left of a block, and this cache evaluates a part of it",
    }
    kind: Literal["dkv_greedy"] = "dkv_greedy"
    refresh_every: int | None = knob(2, gt=0, choices=(None, 1, 2, 4, 8), lossy=True)
    window: int = knob(4, ge=0, low=0, high=6, lossy=True)

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        coming, every = standing.coming, self.refresh_every
        due = every is not None and standing.step % every == 0
        if standing.step == 0 or due or not coming:
            return Evaluation(range(standing.reach), range(*standing.block), True)
        decided = standing.was_masked - standing.masked
        rows = {*coming, *(position for position in decided if position < standing.reach)}
        for position in coming:
            rows |= self._around(position, rows, standing)
        rows |= {position - spec.logit_shift for position in coming}
        return Evaluation(tuple(sorted(rows)), tuple(sorted(coming)), False)

    def _around(self, place: int, rows: set[int], standing: Standing) -> set[int]:
        others = (position for position in standing.masked - rows if position < standing.reach)
        nearest = sorted(others, key=lambda position: (abs(position - place), position))
        return set(nearest[: self.window])

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        everything = set(range(standing.reach))
        every = self.refresh_every or standing.step + 1
        if standing.step == 0 or standing.step % every == 0 or not standing.coming:
            return everything, set(range(*standing.block)), True
        rows = set(standing.coming)
        for position in everything:
            if position in standing.was_masked and position not in standing.masked:
                rows.add(position)
        for position in standing.coming:
            self._walk(position, rows, standing)
        predicting = {position - spec.logit_shift for position in standing.coming}
        return rows | predicting, set(standing.coming), False

    def _walk(self, place: int, rows: set[int], standing: Standing) -> None:
        """Add the masked rows met on the way from `place`, left and right in turns."""
        found = 0
        for distance in range(1, standing.reach):
            for position in (place - distance, place + distance):
                there = position in standing.masked and position < standing.reach
                if found < self.window and there and position not in rows:
                    rows.add(position)
                    found += 1

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        # It needs an order that ignores what the model says.
        del spec
        return False
