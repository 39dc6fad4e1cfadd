"""The rules of decoding in their plainest form.

Every step evaluates the whole canvas; a cache is reproduced by what attention may see. Nothing
here is shared with the runtime but the policies, and of those only the oracles are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from dllmc.policies.axes import BlockProgress, Standing, commit_oracle
from dllmc.policies.layout import attention_limit, lay_out
from dllmc.reference.memory import AttentionMemory
from dllmc.reference.noise import gumbel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from dllmc.policies.config import DecodingConfig
    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One evaluation and what was decided from it. Positions are those of the canvas.

    Attributes:
        evaluated: Positions evaluated, ascending.
        refresh: Whether the evaluation is a refresh by the cache's rule.
        block: Start and end of the block that is decoded.
        eligible: Masked positions that may commit, ascending; the next fields go along with it.
        candidates: Token id at each, never the mask.
        logits: The candidate's logit at each, without noise.
        margins: By how much the candidate's logit, with noise, leads the next one's.
        doubts: Doubt of each by the score policy, float64.
        committed: Position and token of what this step commits or replaces, ascending.
        revised: Those of the positions that held another token before.
        reconsidered: Committed positions whose candidate is another token, ascending, with the
            candidate, its logit, margin and doubt.
    """

    evaluated: tuple[int, ...]
    refresh: bool
    block: tuple[int, int]
    eligible: tuple[int, ...]
    candidates: tuple[int, ...]
    logits: tuple[float, ...]
    margins: tuple[float, ...]
    doubts: tuple[float, ...]
    committed: tuple[tuple[int, int], ...]
    revised: tuple[int, ...] = ()
    reconsidered: tuple[tuple[int, int, float, float, float], ...] = ()


class Prediction(NamedTuple):
    """What a row of logits says of a position."""

    candidate: int
    logit: float
    margin: float
    tail_mass: float


class ReferenceDecoder:
    """Decodes one prompt, one evaluation per `step`.

    Args:
        module: Token ids `[1, T]` int64 -> logits `[1, T, vocab_size]`, attending by
            `scaled_dot_product_attention` if `config` has a cache. It runs in its own dtype.
        spec: What the module does not say of itself.
        prompt: Token ids.
        config: How to decode.
        max_new_tokens: Length of the response.
        stream: Tells the sequences of a batch apart when sampling.

    Attributes:
        canvas: Prompt, padded to its slots if it has any, and response.
        done: Whether the response is finished.
        nfe: Evaluations so far.

    Raises:
        ConfigError: `config` does not fit the model or the length.
        PromptError: The prompt is empty, too long, or has an id that it may not have.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: DenoiserSpec,
        prompt: Sequence[int],
        config: DecodingConfig,
        max_new_tokens: int,
        stream: int = 0,
    ) -> None:
        config.check_model(spec)
        prepared = spec.prepare_prompt(prompt, max_new_tokens)
        self.module, self.spec, self.config, self.stream = module, spec, config, stream
        length, self._blocks = lay_out(config.schedule, spec, len(prepared), max_new_tokens)
        config.commit.check(max_new_tokens, len(self._blocks))
        self.canvas = prepared + [spec.mask_id] * (length - len(prepared))
        self.done = False
        self.nfe = 0
        self._response_start = len(prepared)
        self._response_end = len(prepared) + max_new_tokens
        self._memory = AttentionMemory()
        self._carried: Prediction | None = None
        self._block = 0
        self._step_of_block = 0
        self._step_of_outer = 0
        self._unmasked_steps = 0
        self._committed_since_refresh = 0
        self._exact = 0

    @property
    def response(self) -> list[int]:
        """The response as it stands, masks included."""
        return self.canvas[self._response_start : self._response_end]

    @property
    def output(self) -> list[int]:
        """The response, up to and with its first end-of-sequence token if such a token stops."""
        if self.config.stop.kind == "eos":
            for index, token in enumerate(self.response):
                if token in self.spec.eos_ids:
                    return self.response[: index + 1]
        return self.response

    def step(self, follow: StepTrace | None = None) -> StepTrace:
        """Evaluate once and commit.

        Args:
            follow: Commit what that step of another decoder committed, to stay on its way; the
                trace says what this one would have committed.
        """
        config, block = self.config, self._blocks[self._block]
        rows, offered, refresh = config.cache.oracle(self._standing(), self.spec)
        evaluated = sorted(rows)
        logits = self._logits(evaluated)
        predicted = {p: self._predict(logits, p, rows, refresh) for p in sorted(offered)}
        masked = [p for p in predicted if self.canvas[p] == self.spec.mask_id]
        others = [
            p
            for p in predicted
            if p not in masked and len(offered) > 1 and predicted[p].candidate != self.canvas[p]
        ]
        doubts, other_doubts = (
            config.score.oracle([predicted[p].tail_mass for p in places])
            for places in (masked, others)
        )
        progress = BlockProgress(
            step=self._step_of_block,
            masks=block.span[1] - block.span[0],
            blocks=len(self._blocks),
            remaining=self._remaining(),
            length=block.length,
        )
        chosen = commit_oracle(config.commit, doubts, progress, single=len(offered) == 1)
        revised = tuple(others[index] for index in sorted(config.revise.oracle(other_doubts)))
        places = sorted([*(masked[index] for index in chosen), *revised])
        committed = tuple((place, predicted[place].candidate) for place in places)
        trace = StepTrace(
            tuple(evaluated),
            refresh,
            block.span,
            tuple(masked),
            tuple(predicted[p].candidate for p in masked),
            tuple(predicted[p].logit for p in masked),
            tuple(predicted[p].margin for p in masked),
            tuple(doubts),
            committed,
            revised,
            tuple(
                (p, predicted[p].candidate, predicted[p].logit, predicted[p].margin, doubt)
                for p, doubt in zip(others, other_doubts, strict=True)
            ),
        )
        self._write(trace if follow is None else follow)
        return trace

    def _standing(self) -> Standing:
        block = self._blocks[self._block]
        return Standing(
            block=block.span,
            whole=block.whole,
            outer=block.outer,
            reach=block.outer[1],
            step=self._step_of_block,
            outer_steps=self._step_of_outer,
            committed=self._committed_since_refresh,
            first_masked=self.canvas[block.whole[0]] == self.spec.mask_id,
            exact=self._exact,
        )

    def _remaining(self) -> int:
        return self.canvas[slice(*self._blocks[self._block].span)].count(self.spec.mask_id)

    def _predict(
        self, logits: NDArray[np.float64], position: int, rows: set[int], refresh: bool
    ) -> Prediction:
        """What this evaluation says of `position`."""
        row = position - self.spec.logit_shift
        carries = getattr(self.config.cache, "window_first", "self") == "carried"
        if carries and not refresh and row not in rows:
            assert self._carried is not None
            return self._carried
        # The first row of a window has none before it: it predicts itself, as published.
        row = row if row in rows else position
        found = self._statistics(logits[row], row)
        if refresh and position == self._blocks[self._block].span[0]:
            self._carried = found
        return found

    def _logits(self, evaluated: Sequence[int]) -> NDArray[np.float64]:
        """Logits `[T, vocab_size]`; rows that are not in `evaluated` mean nothing."""
        device = next(self.module.parameters()).device
        tokens = torch.tensor([self.canvas], device=device)
        limits = None
        if self.spec.attention == "block_causal" and self.spec.blocks_from == "response":
            limits = torch.tensor(
                [
                    attention_limit(self.spec, p, self._response_start, len(self.canvas))
                    for p in range(len(self.canvas))
                ],
                device=device,
            )
        with torch.no_grad():
            if self.config.cache.kind == "none" and limits is None:
                logits = self.module(tokens)
            else:
                logits = self._memory.forward(self.module, tokens, evaluated, limits)
        array: NDArray[np.float64] = logits[0].double().cpu().numpy()
        return array

    def _statistics(self, logits: NDArray[np.float64], row: int) -> Prediction:
        noised = logits.copy()
        if self.config.temperature > 0:
            noise = gumbel(self.config.seed, self.stream, row, self.nfe, len(logits))
            noised += self.config.temperature * noise
        noised[self.spec.mask_id] = -np.inf
        candidate = int(noised.argmax())  # the first of equals: the lowest id
        margin = noised[candidate] - np.delete(noised, candidate).max()
        others = np.delete(logits, candidate)
        with np.errstate(over="ignore"):  # an infinite doubt is a valid one
            tail_mass = np.exp(others - logits[candidate]).sum()
        return Prediction(candidate, float(logits[candidate]), float(margin), float(tail_mass))

    def _write(self, trace: StepTrace) -> None:
        """Commit, and move on to where the next step stands."""
        masks, block = self._remaining(), self._blocks[self._block]
        for position, token in trace.committed:
            self.canvas[position] = token
        self.nfe += 1
        unmasked = len(trace.committed) - len(trace.revised)
        # K and V of a refresh are from before its own commits, so these count.
        self._committed_since_refresh = unmasked + (
            0 if trace.refresh else self._committed_since_refresh
        )
        # Everything before the outer block was final when this step evaluated it.
        if set(range(self._exact, block.outer[0])) <= set(trace.evaluated):
            self._exact = max(self._exact, block.outer[0])
        if trace.evaluated[-1] >= block.outer[0]:
            self._step_of_block += 1
            self._step_of_outer += 1
            self._unmasked_steps += masks == 0
        settled = self.config.revise.settled(masks, len(trace.revised), self._unmasked_steps)
        if self._remaining() == 0 and settled:
            self._next_block()
        finished = self.config.stop.oracle(
            self.canvas[self._response_start :], self.spec.mask_id, self.spec.eos_ids
        )
        if self.config.revise.kind != "none" and self._step_of_block > 0:
            finished = False  # what stands in this block may still be replaced
        self.done = finished or self._block == len(self._blocks)

    def _next_block(self) -> None:
        outer = self._blocks[self._block].outer
        self._block += 1
        self._step_of_block = self._unmasked_steps = 0
        if self._block < len(self._blocks) and self._blocks[self._block].outer != outer:
            self._step_of_outer = 0
