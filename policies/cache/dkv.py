"""dKV-Cache (arXiv 2505.15781): keys are cached one step after their token was decoded.

Evaluated are the rows that were masked before the last evaluation, wherever they stand: a token
that was just committed is evaluated once more with its own embedding, and its keys then stay.
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

_ROWS = "it asks about committed rows of the block, and this cache does not evaluate these"


class DkvCache(Cache):
    """Rows that are or were just masked, and everything every so often.

    With full attention and logits that are not shifted the first two evaluations of a block cover
    everything, as published for LLaDA; with shifted ones the first of the response, and the
    second covers what follows the prompt, as published for Dream. With a `refresh_every` of 1
    that counts steps nothing is cached.

    Attributes:
        refresh_every: Evaluate everything again whenever so many more tokens (or steps) of the
            block are done; None is never.
        counts: What `refresh_every` counts. Published code counts steps, which are tokens where
            each step commits one.
        prompt: Whether the prompt's keys are refreshed too, or evaluated once (`PD` of the paper,
            and its `Prefill` with a `refresh_every` of 1 that counts steps).
        shift: With shifted logits, whether only rows that predict a masked position are evaluated
            (`un`), or masked rows too (`un_right`).
    """

    traits: ClassVar[frozenset[str]] = frozenset({"history", "masked rows"})
    excludes: ClassVar[Mapping[str, str]] = {
        "revise.edit": _ROWS,
        "revise.remask": _ROWS,
        "score.learned_filter": _ROWS,
        "carries": "it evaluates rows that predict their position, and carries nothing",
    }
    kind: Literal["dkv"] = "dkv"
    refresh_every: int | None = knob(8, gt=0, choices=(None, 1, 2, 4, 8, 16, 32), lossy=True)
    counts: Literal["tokens", "steps"] = "tokens"
    prompt: Literal["refreshed", "once"] = knob(
        "refreshed", choices=("refreshed", "once"), lossy=True
    )
    shift: Literal["un", "un_right"] = knob("un", choices=("un", "un_right"), lossy=True)

    def evaluate(self, standing: Standing, spec: DenoiserSpec) -> Evaluation:
        block = range(*standing.block)
        first = standing.outer_steps == 0
        start = 0 if self.prompt == "refreshed" or first else standing.prompt - spec.logit_shift
        if self._refreshes(standing, spec):
            return Evaluation(range(start, standing.reach), block, True)
        head = tuple(p for p in block if p in standing.masked)
        if spec.logit_shift and standing.step == 1:
            following = range(standing.prompt - 1, standing.reach)
            return Evaluation(following, head, False)
        rows = self._rows(standing, spec)
        if self.prompt == "once":
            rows = {row for row in rows if row >= start}
        return Evaluation(tuple(sorted(rows)), head, False)

    def _refreshes(self, standing: Standing, spec: DenoiserSpec) -> bool:
        if standing.step == 0 or (standing.step == 1 and not spec.logit_shift):
            return True
        if self.refresh_every is None:
            return False
        if self.counts == "steps":
            return standing.step % self.refresh_every == 0
        done = sum(position not in standing.masked for position in range(*standing.block))
        # Of what was committed a cut may have taken away some.
        before = max(0, done - standing.committed)
        return done // self.refresh_every > before // self.refresh_every

    def _rows(self, standing: Standing, spec: DenoiserSpec) -> set[int]:
        were = {position for position in standing.was_masked if position < standing.reach}
        if not spec.logit_shift:
            return were
        rows = {position - 1 for position in were}
        if self.shift == "un_right":
            rows |= were
            # As published, the last row goes with the one before it.
            if standing.reach - 2 in rows:
                rows.add(standing.reach - 1)
        return rows

    def oracle(self, standing: Standing, spec: DenoiserSpec) -> tuple[set[int], set[int], bool]:
        block = set(range(*standing.block))
        everything = set(range(standing.reach))
        kept = set[int]()
        if self.prompt == "once" and standing.outer_steps > 0:
            kept = set(range(standing.prompt - spec.logit_shift))
        done = len(block - standing.masked)
        every = self.refresh_every or len(everything) + standing.step + 1
        turns = {
            "tokens": done // every != max(0, done - standing.committed) // every,
            "steps": standing.step % every == 0,
        }
        early = (0,) if spec.logit_shift else (0, 1)
        if standing.step in early or turns[self.counts]:
            return everything - kept, block, True
        if spec.logit_shift and standing.step == 1:
            return everything - set(range(standing.prompt - 1)), block & standing.masked, False
        rows = {position for position in everything if self._reads(position, standing, spec)}
        return rows - kept, block & standing.masked, False

    def _reads(self, position: int, standing: Standing, spec: DenoiserSpec) -> bool:
        """The oracle of one row: whether it, or what it predicts, was masked."""
        was = position in standing.was_masked
        last = position == standing.reach - 1
        if not spec.logit_shift:
            return was
        follows = not last and position + 1 in standing.was_masked
        if self.shift == "un":
            return follows
        return was or follows or (last and position - 1 in standing.was_masked)
