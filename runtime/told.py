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


def told_tensors(
    decisions: Decisions, finished: Tensor, steps: Tensor | None = None
) -> dict[str, Tensor]:
    """What is told of decisions, on their device.

    Args:
        decisions: Of an evaluation.
        finished: `[B]` bool, whether each response is finished.
        steps: `[B]` int64, steps that the evaluation stands for, or None for one.
    """
    rows = decisions.rows
    found = {
        "flags": torch.stack((decisions.committed, decisions.replaced, decisions.reopened)),
        "places": torch.stack((rows.positions, decisions.tokens)),
        "doubt": rows.doubt,
        "ends": decisions.end,
        "cuts": decisions.cut,
        "finished": finished,
        "steps": steps,
    }
    return {name: tensor for name, tensor in found.items() if tensor is not None}


class Told:
    """Decisions on the host.

    Args:
        tensors: As `told_tensors` makes them, on the host.
        owners: The sequence that each decision belongs to, as an index.
    """

    def __init__(self, tensors: Mapping[str, Tensor], owners: Sequence[int]) -> None:
        found = {name: tensor.tolist() for name, tensor in tensors.items()}
        self._flags = found["flags"]
        self._positions, self._tokens = found["places"]
        self._doubt = found["doubt"]
        self._ends, self._cuts = found.get("ends"), found.get("cuts")
        self._finished: list[bool] = found["finished"]
        self._steps = found.get("steps")
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
    return [
        account_one(index, state, need, plan, told, seconds)
        for index, (state, need) in enumerate(zip(states, needs, strict=True))
    ]


def account_one(
    index: int, state: DecodeState, need: Need, plan: str, told: Told | None, seconds: float
) -> Advance:
    """Tell the sequence at `index` what the evaluation did to it."""
    name = f"joint-{plan}" if state.evaluation().joint else plan
    did = Advance(name, need, {})
    if told is not None:
        did = told.advance(index, name, need, state)
    confidence = {} if told is None else told.confidences(index)
    state.trace.append(_trace_step(state, did, confidence, seconds))
    state.advance(did)
    return did


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
