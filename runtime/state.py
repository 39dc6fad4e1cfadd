"""The state of decoding: sequences, and the pool of canvases and caches that they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dllmc.policies.axes import BlockProgress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    """

    nfe: int
    rows: tuple[int, int]
    positions: tuple[int, ...]
    tokens: tuple[int, ...]


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
        config.check(max_new_tokens)
        config.check_model(spec)
        self.config = config
        self.stream = stream
        self.prompt = padded
        self.response_start = len(padded)
        self.length = len(padded) + max_new_tokens
        self.blocks = [
            (start + len(padded), end + len(padded))
            for start, end in config.schedule.blocks(max_new_tokens)
        ]
        self.row = -1
        self.block_index = 0
        self.step = 0
        self.committed = 0
        self.nfe = 0
        self.done = False
        self.events: list[CommitEvent] = []
        self.plans: list[tuple[str, int]] = []

    @property
    def block(self) -> tuple[int, int]:
        """Start and end of the current block on the canvas."""
        return self.blocks[self.block_index]

    @property
    def progress(self) -> BlockProgress:
        """Where the sequence stands in its block."""
        start, end = self.block
        return BlockProgress(self.step, end - start, len(self.blocks))

    def rows(self) -> tuple[int, int]:
        """Start and end of the rows that the next evaluation must cover."""
        if self.config.cache.refreshes(self.step, self.committed):
            return 0, self.length
        return self.config.cache.window(self.block, self.length)

    def advance(self, plan: str, tokens: int, *, block_done: bool, finished: bool) -> None:
        """Account for one evaluation that committed `tokens` tokens."""
        refreshed = self.config.cache.refreshes(self.step, self.committed)
        self.committed = tokens if refreshed else self.committed + tokens
        self.nfe += 1
        self.step += 1
        if self.plans and self.plans[-1][0] == plan:
            self.plans[-1] = (plan, self.plans[-1][1] + 1)
        else:
            self.plans.append((plan, 1))
        if block_done:
            self.step = 0
            self.block_index += 1
        self.done = finished or self.block_index == len(self.blocks)


@dataclass
class Pool:
    """Canvases and caches of up to `capacity` sequences.

    Attributes:
        canvas: `[capacity, slots]` int64 token ids.
        caches: `[capacity, G, slots + 1, D]` per cache input; slot `slots` is scratch.
        slots: Cache slots per sequence.
    """

    canvas: Tensor
    caches: dict[str, Tensor]
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
        return cls(canvas, caches, slots)

    def admit(self, state: DecodeState, mask_id: int) -> None:
        """Lay out the canvas of `state` in the next free row."""
        state.row = len(self.members)
        self.members.append(state)
        canvas = self.canvas[state.row]
        canvas[: len(state.prompt)] = torch.tensor(state.prompt)
        canvas[len(state.prompt) : state.length] = mask_id

    def response(self, state: DecodeState) -> list[int]:
        """The tokens after the prompt, masks included."""
        tokens: list[int] = self.canvas[state.row, state.response_start : state.length].tolist()
        return tokens
