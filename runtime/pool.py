"""Canvases, caches and what policies remember, of the sequences that are decoded together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dllmc.runtime.programs.base import cache_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllmc.policies.rows import Remembered
    from dllmc.runtime.programs import Programs
    from dllmc.runtime.state import DecodeState


@dataclass
class Pool:
    """Canvases and caches of up to `capacity` sequences.

    Attributes:
        canvas: `[capacity, slots + 1]` int64 token ids; the last position is scratch.
        caches: `[capacity, G, slots + scratch, D]` per cache input.
        slots: Cache slots per sequence.
        scratch: Slots after these that padded rows and drafts write to.
        auxiliary: Caches of the auxiliary model, if it is asked.
        kept: What is left of the caches where a policy keeps a part of the keys.
        memory: What policies remember, by name and shape of an entry: `[capacity, slots + 1,
            ...]`, or `[capacity, ...]` where it is per sequence.
        carried: Statistics of the first position of each sequence's block, as the last refresh
            predicted it, by name and shape of one: `[capacity, ...]`.
    """

    canvas: Tensor
    caches: dict[str, Tensor]
    slots: int
    scratch: int = 1
    kept: dict[str, Tensor] = field(default_factory=dict)
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    members: list[DecodeState] = field(default_factory=list)
    memory: dict[tuple[str, Remembered], Tensor] = field(default_factory=dict)
    carried: dict[tuple[str, torch.Size], Tensor] = field(default_factory=dict)

    @classmethod
    def allocate(
        cls,
        programs: Programs,
        capacity: int,
        length: int,
        dtype: torch.dtype,
        device: torch.device,
        scratch: int = 1,
    ) -> Pool:
        """An empty pool of caches that `programs` like best.

        Args:
            programs: That will run on it.
            capacity: Sequences.
            length: Of the longest.
            dtype: Of the caches.
            device: Where.
            scratch: Slots beyond.
        """
        shapes, slots = cache_shapes(programs.package.graphs["greedy"]), programs.slots(length)
        caches = programs.caches(capacity, shapes, slots + scratch, dtype, device)
        canvas = torch.zeros(capacity, slots + 1, dtype=torch.int64, device=device)
        return cls(canvas, caches, slots, scratch)

    def admit(self, state: DecodeState) -> None:
        """Lay out the canvas of `state` in the next free row."""
        state.row = len(self.members)
        self.members.append(state)
        self.canvas[state.row, : state.length] = torch.tensor(state.tokens)
        for name, entry in state.remembered.items():
            self._remember(name, entry)

    def recall(self, state: DecodeState, rows: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """What the policies of `state` remember of sequences `rows` `[N]`, by name.

        Per position at `positions` `[N, L]`: `[N, L, ...]`; per sequence `[N, ...]`.
        """
        return {
            name: self.memory[name, entry][
                (rows[:, None], positions) if entry.per == "position" else rows
            ]
            for name, entry in state.remembered.items()
        }

    def keep(
        self,
        state: DecodeState,
        rows: Tensor,
        positions: Tensor,
        memory: Mapping[str, Tensor],
        active: Tensor | None = None,
    ) -> None:
        """Put back what `recall` gave, changed; per sequence only of those that are `active`."""
        for name, entry in state.remembered.items():
            held, value = self.memory[name, entry], memory[name]
            if entry.per == "position":
                held[rows[:, None], positions] = value
                continue
            if active is not None:
                lasting = active.view(-1, *[1] * (value.dim() - 1))
                value = torch.where(lasting, value, held[rows])
            held[rows] = value

    def carried_of(self, name: str, statistic: Tensor) -> Tensor:
        """What is carried of `statistic` `[B, R, ...]`: `[capacity, ...]`, to be changed."""
        shape = statistic.shape[2:]
        if (name, shape) not in self.carried:
            zeros = statistic.new_zeros(len(self.canvas), *shape)
            self.carried[name, shape] = zeros
        return self.carried[name, shape]

    def _remember(self, name: str, entry: Remembered) -> None:
        if (name, entry) in self.memory:
            return
        places = (self.slots + 1,) if entry.per == "position" else ()
        self.memory[name, entry] = torch.full(
            (len(self.canvas), *places, *entry.shape),
            entry.fill,
            dtype=getattr(torch, entry.dtype),
            device=self.canvas.device,
        )


def scratch_of(state: DecodeState) -> int:
    """Scratch slots that decoding `state` takes: one, and drafts that stand in one row."""
    verify = state.config.verify
    return 1 + (verify.lanes * state.length if verify.tree else 0)
