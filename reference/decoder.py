"""The rules of decoding in their plainest form.

Every step evaluates the whole canvas; a cache is reproduced by what attention may see. Nothing
here is shared with the runtime but the policies, and of those only the oracles are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dllmc.policies.axes import BlockProgress, commit_oracle
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
        refresh: Whether the evaluation covers the canvas by the cache's rule.
        block: Start and end of the block that may commit.
        eligible: Masked positions of the block, ascending; the next fields go along with it.
        candidates: Token id at each, never the mask.
        logits: The candidate's logit at each, without noise.
        margins: By how much the candidate's logit, with noise, leads the next one's.
        doubts: Doubt of each by the score policy, float64.
        committed: Position and token of what this step commits, ascending.
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
        config.check(max_new_tokens)
        config.check_model(spec)
        prepared = spec.prepare_prompt(prompt, max_new_tokens)
        self.module, self.spec, self.config, self.stream = module, spec, config, stream
        self.canvas = prepared + [spec.mask_id] * max_new_tokens
        self.done = False
        self.nfe = 0
        self._response_start = len(prepared)
        self._memory = AttentionMemory()
        self._blocks = [
            (len(prepared) + start, len(prepared) + end)
            for start, end in config.schedule.blocks(max_new_tokens)
        ]
        self._block = 0
        self._step_of_block = 0
        self._committed_since_refresh = 0

    @property
    def response(self) -> list[int]:
        """The response as it stands, masks included."""
        return self.canvas[self._response_start :]

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
        refresh = config.cache.refreshes(self._step_of_block, self._committed_since_refresh)
        evaluated = [
            position
            for position in range(len(self.canvas))
            if refresh or config.cache.oracle(position, block, len(self.canvas))
        ]
        logits = self._logits(evaluated)
        eligible = [p for p in range(*block) if self.canvas[p] == self.spec.mask_id]
        statistics = [self._statistics(logits[position], position) for position in eligible]
        candidates, candidate_logits, margins, tail_masses = zip(*statistics, strict=True)
        doubts = config.score.oracle(tail_masses)
        progress = BlockProgress(self._step_of_block, block[1] - block[0], len(self._blocks))
        chosen = commit_oracle(config.commit, doubts, progress)
        committed = tuple((eligible[index], candidates[index]) for index in sorted(chosen))

        written = committed if follow is None else follow.committed
        for position, token in written:
            self.canvas[position] = token
        self.nfe += 1
        self._advance(refresh, len(written))
        return StepTrace(
            tuple(evaluated),
            refresh,
            block,
            tuple(eligible),
            candidates,
            candidate_logits,
            margins,
            tuple(doubts),
            committed,
        )

    def _logits(self, evaluated: Sequence[int]) -> NDArray[np.float64]:
        """Logits `[T, vocab_size]`; rows that are not in `evaluated` mean nothing."""
        device = next(self.module.parameters()).device
        tokens = torch.tensor([self.canvas], device=device)
        with torch.no_grad():
            if self.config.cache.kind == "none":
                logits = self.module(tokens)
            else:
                logits = self._memory.forward(self.module, tokens, evaluated)
        array: NDArray[np.float64] = logits[0].double().cpu().numpy()
        return array

    def _statistics(
        self, logits: NDArray[np.float64], position: int
    ) -> tuple[int, float, float, float]:
        """Candidate, its logit, its lead over the next token, and its tail mass."""
        noised = logits.copy()
        if self.config.temperature > 0:
            noise = gumbel(self.config.seed, self.stream, position, self.nfe, len(logits))
            noised += self.config.temperature * noise
        noised[self.spec.mask_id] = -np.inf
        candidate = int(noised.argmax())  # the first of equals: the lowest id
        margin = noised[candidate] - np.delete(noised, candidate).max()
        others = np.delete(logits, candidate)
        with np.errstate(over="ignore"):  # an infinite doubt is a valid one
            tail_mass = np.exp(others - logits[candidate]).sum()
        return candidate, float(logits[candidate]), float(margin), float(tail_mass)

    def _advance(self, refreshed: bool, committed: int) -> None:
        """Move on to where the next step stands."""
        # K and V of a refresh are from before its own commits, so these count.
        self._committed_since_refresh = committed + (
            0 if refreshed else self._committed_since_refresh
        )
        self._step_of_block += 1
        start, end = self._blocks[self._block]
        if self.spec.mask_id not in self.canvas[start:end]:
            self._block, self._step_of_block = self._block + 1, 0
        self.done = self._block == len(self._blocks) or self.config.stop.oracle(
            self.response, self.spec.mask_id, self.spec.eos_ids
        )
