"""The state of decoding: sequences, and the pool of canvases and caches that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dllmc.policies.axes import BlockProgress, Evaluation, Standing
from dllmc.policies.layout import lay_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.config import DecodingConfig
    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True, slots=True)
class CommitEvent:
    """What one evaluation committed.

    Attributes:
        nfe: Evaluations of the sequence up to and with this one.
        rows: Start and end of the canvas positions evaluated.
        positions: Canvas positions committed.
        tokens: What they became.
        revised: Those of the positions that held another token before.
    """

    nfe: int
    rows: tuple[int, int]
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    revised: tuple[int, ...] = ()


class DecodeState:
    """One sequence being decoded.

    Args:
        spec: Of the denoiser.
        prompt: Token ids.
        config: How to decode.
        max_new_tokens: Length of the response.
        stream: Tells apart sequences that share a seed.

    Raises:
        ConfigError: The response cannot be decoded like this.
        PromptError: The prompt does not fit.
    """

    def __init__(
        self,
        spec: DenoiserSpec,
        prompt: Sequence[int],
        config: DecodingConfig,
        max_new_tokens: int,
        stream: int,
    ) -> None:
        padded = spec.prepare_prompt(prompt, max_new_tokens)
        config.check_model(spec)
        self.spec = spec
        self.config = config
        self.stream = stream
        self.prompt = padded
        self.response_start = len(padded)
        self.response_end = len(padded) + max_new_tokens
        self.length, self.blocks = lay_out(config.schedule, spec, len(padded), max_new_tokens)
        config.commit.check(max_new_tokens, len(self.blocks))
        self.masked = set(range(self.response_start, self.length))
        self.row = -1
        self.block_index = 0
        self.step = 0
        self.outer_step = 0
        self.unmasked_steps = 0
        self.committed = 0
        self.exact = 0
        self.nfe = 0
        self.done = False
        self.events: list[CommitEvent] = []
        self.plans: list[tuple[str, int]] = []
        self._evaluation: Evaluation | None = None

    @property
    def block(self) -> tuple[int, int]:
        """Start and end of the current block on the canvas."""
        return self.blocks[self.block_index].span

    @property
    def remaining(self) -> int:
        """Masked positions of the block."""
        return sum(position in self.masked for position in range(*self.block))

    @property
    def progress(self) -> BlockProgress:
        """Where the sequence stands in its block."""
        start, end = self.block
        length = self.blocks[self.block_index].length
        return BlockProgress(self.step, end - start, len(self.blocks), self.remaining, length)

    @property
    def standing(self) -> Standing:
        """What the cache policy decides by."""
        block = self.blocks[self.block_index]
        return Standing(
            block=block.span,
            whole=block.whole,
            outer=block.outer,
            reach=block.outer[1],
            step=self.step,
            outer_steps=self.outer_step,
            committed=self.committed,
            first_masked=block.whole[0] in self.masked,
            exact=self.exact,
        )

    def evaluation(self) -> Evaluation:
        """What to evaluate next."""
        if self._evaluation is None:
            self._evaluation = self.config.cache.evaluate(self.standing, self.spec)
        return self._evaluation

    @property
    def statistics(self) -> str:
        """The statistics set that the next evaluation needs."""
        start, end = self.evaluation().head
        return self.config.statistics if end > start else "none"

    def advance(
        self, plan: str, committed: Iterable[int], revised: int = 0, *, finished: bool = False
    ) -> None:
        """Account for one evaluation.

        Args:
            plan: Its key.
            committed: Positions that it unmasked.
            revised: Tokens that it replaced.
            finished: Whether the stop policy found the response finished.
        """
        done, unmasked = self.evaluation(), set(committed)
        masks = self.remaining
        self._evaluation = None
        self.masked -= unmasked
        self.nfe += 1
        if self.plans and self.plans[-1][0] == plan:
            self.plans[-1] = (plan, self.plans[-1][1] + 1)
        else:
            self.plans.append((plan, 1))
        self.committed = len(unmasked) + (0 if done.refresh else self.committed)
        outer_start = self.blocks[self.block_index].outer[0]
        if done.rows[0] <= self.exact < outer_start <= done.rows[1]:
            self.exact = outer_start
        if done.rows[1] > outer_start:
            self.step += 1
            self.outer_step += 1
            self.unmasked_steps += masks == 0
        settled = self.config.revise.settled(masks, revised, self.unmasked_steps)
        if not self.remaining and settled:
            self._next_block()
        revises = self.config.revise.kind != "none"
        stopped = finished and (not revises or self.step == 0)
        self.done = stopped or self.block_index == len(self.blocks)

    def _next_block(self) -> None:
        outer = self.blocks[self.block_index].outer
        self.block_index += 1
        self.step = self.unmasked_steps = 0
        if self.block_index < len(self.blocks) and self.blocks[self.block_index].outer != outer:
            self.outer_step = 0


@dataclass
class Pool:
    """Canvases and caches of up to `capacity` sequences.

    Attributes:
        canvas: `[capacity, slots]` int64 token ids.
        caches: `[capacity, G, slots + 1, D]` per cache input; slot `slots` is scratch.
        carried: Candidate, logit and tail mass `[3, capacity]` float64 of the first position of
            each sequence's block, as the last refresh predicted them.
        slots: Cache slots per sequence.
    """

    canvas: Tensor
    caches: dict[str, Tensor]
    carried: Tensor
    slots: int
    members: list[DecodeState] = field(default_factory=list)

    @classmethod
    def allocate(
        cls,
        capacity: int,
        slots: int,
        shapes: Mapping[str, tuple[int, int]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Pool:
        """A pool of zeros; caches must be finite, since NaN leaks through masked slots."""
        caches = {
            name: torch.zeros(capacity, groups, slots + 1, width, dtype=dtype, device=device)
            for name, (groups, width) in shapes.items()
        }
        canvas = torch.zeros(capacity, slots, dtype=torch.int64, device=device)
        carried = torch.zeros(3, capacity, dtype=torch.float64, device=device)
        return cls(canvas, caches, carried, slots)

    def admit(self, state: DecodeState, mask_id: int) -> None:
        """Lay out the canvas of `state` in the next free row."""
        state.row = len(self.members)
        self.members.append(state)
        canvas = self.canvas[state.row]
        canvas[: len(state.prompt)] = torch.tensor(state.prompt)
        canvas[len(state.prompt) : state.length] = mask_id

    def response(self, state: DecodeState) -> list[int]:
        """The tokens after the prompt, masks included."""
        response = self.canvas[state.row, state.response_start : state.response_end]
        tokens: list[int] = response.tolist()
        return tokens
