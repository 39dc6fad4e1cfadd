"""The autoregressive model beside the denoiser that some verify policies ask.

It has a cache of its own, a slot per canvas position. What it was last evaluated with stays as
long as the tokens do, so that each call evaluates what is new and what is asked about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.runtime.programs import cache_shapes
from dllmc.spec import ConfigError, StepPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dllmc.artifact import Package
    from dllmc.runtime.inputs import Group
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs
    from dllmc.runtime.state import DecodeState


class Auxiliary:
    """A causal model of the denoiser's vocabulary.

    Args:
        package: Of the model.
        programs: That run it.
        denoiser: Of the model that it helps.

    Raises:
        ConfigError: It is no auxiliary model, or has another vocabulary.
    """

    def __init__(self, package: Package, programs: Programs, denoiser: Package) -> None:
        spec = package.spec
        if spec.attention != "causal":
            raise ConfigError(
                f"`auxiliary`={package.name!r} has {spec.attention} attention, and an auxiliary "
                "model is causal; load one with role 'auxiliary', such as 'auxiliary'"
            )
        if spec.vocab_size != denoiser.spec.vocab_size or _words(package) != _words(denoiser):
            raise ConfigError(
                f"`auxiliary`={package.name!r} has another vocabulary than {denoiser.name!r}; "
                "only a model of the same tokens can judge them"
            )
        self.package, self.programs, self.spec = package, programs, spec
        self.shapes = cache_shapes(package.graphs["greedy"])

    def allocate(self, pool: Pool) -> None:
        """Give `pool` a cache for this model."""
        capacity, device = len(pool.canvas), pool.canvas.device
        dtype = getattr(torch, self.package.dtype)
        pool.auxiliary = {
            name: torch.zeros(capacity, groups, pool.slots + 1, width, dtype=dtype, device=device)
            for name, (groups, width) in self.shapes.items()
        }

    def about_candidates(self, pool: Pool, group: Group, ids: Tensor) -> Tensor:
        """What it says of each head position after the candidates before it, `[B, R, V]`.

        Args:
            pool: Of the sequences.
            group: That the denoiser evaluated.
            ids: `[B, R]`, the denoiser's candidates.
        """
        masked = group.canvas.gather(1, group.head) == group.states[0].spec.mask_id
        filled = torch.where(masked, ids, group.canvas.gather(1, group.head))
        canvas = group.canvas.scatter(1, group.head, filled)
        pairs = zip(group.states, group.evaluations, strict=True)
        spans = [(state.known, e.head[-1] + 1) for state, e in pairs]
        asked = [range(e.head[0], e.head[-1] + 1) for e in group.evaluations]
        return self._evaluate(pool, group.states, canvas, spans, asked, ("greedy+logits", 3))

    def about_block(self, pool: Pool, states: Sequence[DecodeState]) -> list[list[int]]:
        """What it would have taken at each position of the finished blocks, and after them."""
        rows = torch.tensor([state.row for state in states], device=pool.canvas.device)
        spans = [(state.known, state.current.span[1]) for state in states]
        asked = [range(state.current.span[0], state.current.span[1] + 1) for state in states]
        found = self._evaluate(pool, states, pool.canvas[rows], spans, asked, ("greedy", 0))
        return [row[: len(a)] for row, a in zip(found.tolist(), asked, strict=True)]

    def _evaluate(
        self,
        pool: Pool,
        states: Sequence[DecodeState],
        canvas: Tensor,
        spans: Sequence[tuple[int, int]],
        asked: Sequence[range],
        statistics: tuple[str, int],
    ) -> Tensor:
        """One statistic of the rows before the `asked` positions, having evaluated `spans`."""
        device = canvas.device
        # The row before the first that is asked about says what comes there.
        spans = [(min(start, a[0] - 1), end) for (start, end), a in zip(spans, asked, strict=True)]
        width, most = max(end - start for start, end in spans), max(map(len, asked))
        plan = self.programs.fit(
            StepPlan(
                batch=len(states),
                rows=max(width, most),
                head_rows=most,
                slots=pool.slots,
                statistics=statistics[0],
                mask="row_limit",
                dtype=self.package.dtype,
            )
        )
        start, end = torch.tensor(spans, device=device).unbind(1)
        offsets = torch.arange(plan.rows, device=device)
        evaluated = offsets < (end - start)[:, None]
        positions = torch.where(evaluated, start[:, None] + offsets, 0)
        heads = torch.arange(plan.head_rows, device=device)
        first = torch.tensor([a[0] for a in asked], device=device)
        head_rows = (first - 1 - start)[:, None] + heads
        held = torch.arange(pool.slots + 1, device=device).expand(len(states), -1)
        rows = torch.tensor([state.row for state in states], device=device)
        inputs = {
            "tokens": torch.where(evaluated, canvas.gather(1, positions), 0),
            "positions": positions,
            "slots": torch.where(evaluated, positions, pool.slots),
            "head_rows": head_rows.clamp(max=plan.rows - 1),
            "key_limit": positions + 1,
            "key_positions": held.contiguous(),
            "key_tokens": canvas,
        }
        caches = self.programs.gather(pool.auxiliary, rows)
        results = self.programs.run(plan, {**inputs, **caches})
        for name, cache in caches.items():
            pool.auxiliary[name].index_copy_(0, rows, cache)
        for state in states:
            state.auxiliary_nfe += 1
        return results[statistics[1]][:, :most]


def verify_blocks(auxiliary: Auxiliary, pool: Pool, states: Sequence[DecodeState]) -> None:
    """Let the auxiliary model judge the finished blocks of `states`."""
    pending = [state for state in states if state.pending]
    if not pending:
        return
    for state, taken in zip(pending, auxiliary.about_block(pool, pending), strict=True):
        state.judged(taken)
        canvas = torch.tensor(state.tokens, device=pool.canvas.device)
        pool.canvas[state.row, : len(state.tokens)] = canvas


def check_auxiliary(auxiliary: Auxiliary | None, state: DecodeState) -> None:
    """Raise `ConfigError` if decoding `state` needs an auxiliary model that is not there."""
    if state.config.verify.auxiliary is not None and auxiliary is None:
        raise ConfigError(
            f"`verify.kind`={state.config.verify.kind!r} asks an autoregressive model, and this "
            "engine has none; give it one: `engine(auxiliary=...)`, `--auxiliary auxiliary`"
        )


def _words(package: Package) -> dict[str, int] | None:
    tokenizer = package.tokenizer
    return None if tokenizer is None else dict(tokenizer.get_vocab())
