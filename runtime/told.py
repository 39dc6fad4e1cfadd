"""What an evaluation did, told to the host: the one synchronisation of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.runtime.advance import Advance
from dllmc.runtime.trace import TraceStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.runtime.need import Need
    from dllmc.runtime.select import Decisions
    from dllmc.runtime.state import DecodeState


class Told:
    """Decisions on the host.

    Args:
        decisions: Of an evaluation.
        owners: The sequence that each decision belongs to, as an index.
        finished: `[B]` bool, whether each response is finished.
        steps: `[B]` int64, steps that the evaluation stands for, or None for one.
    """

    def __init__(
        self,
        decisions: Decisions,
        owners: Sequence[int],
        finished: Tensor,
        steps: Tensor | None = None,
    ) -> None:
        rows = decisions.rows
        flags = (decisions.committed, decisions.replaced, decisions.reopened)
        self._flags = torch.stack(flags).tolist()
        self._positions, self._tokens = torch.stack((rows.positions, decisions.tokens)).tolist()
        self._doubt = rows.doubt.tolist()
        self._ends = None if decisions.end is None else decisions.end.tolist()
        self._cuts = None if decisions.cut is None else decisions.cut.tolist()
        self._finished: list[bool] = finished.tolist()
        self._steps = None if steps is None else steps.tolist()
        self._owners = list(owners)

    def advance(self, index: int, plan: str, need: Need, state: DecodeState) -> Advance:
        """What happened to the sequence at `index`."""
        mine = [n for n, owner in enumerate(self._owners) if owner == index]
        committed, replaced, reopened = (
            {
                self._positions[n][j]: self._tokens[n][j]
                for n in mine
                for j, flag in enumerate(flags[n])
                if flag
            }
            for flags in self._flags
        )
        end = self._ends[mine[0]] if self._ends is not None and state.opening else None
        cut = None if self._cuts is None else min(self._cuts[n] for n in mine)
        return Advance(
            plan,
            need,
            committed,
            replaced,
            tuple(reopened),
            self._finished[index],
            end,
            None if cut is None or cut >= state.length else cut,
            1 if self._steps is None else self._steps[index],
        )

    def confidences(self, index: int) -> dict[int, float]:
        """Of every position of a sequence, the probability that belongs to its doubt."""
        return {
            position: 1 / (1 + doubt)
            for n, owner in enumerate(self._owners)
            if owner == index
            for position, doubt in zip(self._positions[n], self._doubt[n], strict=True)
        }


def account(
    states: Sequence[DecodeState],
    needs: Sequence[Need],
    plan: str,
    told: Told | None,
    seconds: float,
) -> list[Advance]:
    """Tell every sequence what the evaluation did to it; None where it only filled caches."""
    found = []
    for index, (state, need) in enumerate(zip(states, needs, strict=True)):
        name = f"joint-{plan}" if state.evaluation().joint else plan
        did = Advance(name, need, {})
        if told is not None:
            did = told.advance(index, name, need, state)
        confidence = {} if told is None else told.confidences(index)
        state.trace.append(_trace_step(state, did, confidence, seconds))
        state.advance(did)
        found.append(did)
    return found


def _trace_step(
    state: DecodeState, did: Advance, confidence: Mapping[int, float], seconds: float
) -> TraceStep:
    reopened = dict.fromkeys(did.reopened, state.spec.mask_id)
    written = sorted({**did.committed, **did.replaced, **reopened}.items())
    return TraceStep(
        nfe=state.nfe + (not state.evaluation().joint),
        rows=tuple(state.evaluation().rows),
        positions=tuple(position for position, _ in written),
        tokens=tuple(token for _, token in written),
        confidences=tuple(confidence[position] for position, _ in written),
        revised=tuple(sorted((*did.replaced, *did.reopened))),
        plan=did.plan,
        seconds=seconds,
    )
