"""Several steps between two looks of the host: a stride.

The host lays out the evaluations that it foresees, the device takes one after the other, and tells
of all of them at once. A sequence whose block ends within a stride, or whose response does, is
idle for the rest of it: it is evaluated as padding is, writes nothing and commits nothing. So it
stands where stepwise decoding would have left it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.runtime.foresight import foresee
from dllmc.runtime.inputs import Group, lay_out_group, step_inputs
from dllmc.runtime.need import cover, need_of
from dllmc.runtime.offer import (
    lay_out_values,
    named_statistics,
    named_values,
    one_each,
    rows_of,
)
from dllmc.runtime.running import policy_inputs, run
from dllmc.runtime.step import eos_tensor, find_finished, write_decisions
from dllmc.runtime.told import Told, account_one, told_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.standing import Evaluation
    from dllmc.runtime.foresight import Foreseen
    from dllmc.runtime.need import Need
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs, Selects
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec, StepPlan

    Results = list[dict[str, Tensor]]


@dataclass(frozen=True)
class StrideStep:
    """One of its steps, as the host foresees it.

    Attributes:
        plan: That runs.
        needs: Of each sequence.
        evaluations: Of each.
        knobs: Of the policies of the first sequence, whose names are those of all.
    """

    plan: StepPlan
    needs: list[Need]
    evaluations: list[Evaluation]
    knobs: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Stride:
    """Steps of sequences that are evaluated together, laid out on the host.

    Attributes:
        states: Of the sequences.
        steps: At least one.
        tensors: What the device is given, by number of the step and name.
    """

    states: list[DecodeState]
    steps: list[StrideStep]
    tensors: dict[str, Tensor]


def useful_steps(states: Sequence[DecodeState], most: int, usual: float) -> int:
    """Steps, a power of two up to `most`, in which the slowest of the blocks should end.

    Counted at the pace of each sequence so far: steps that all are idle in cost as much as others.

    Args:
        states: Of the sequences.
        most: Steps.
        usual: Tokens per step of a sequence that has had none.
    """
    found = 1
    for state in states:
        decided = len(state.tokens) - state.response_start - len(state.masked)
        pace = decided / state.draws if state.draws else usual
        found = max(found, math.ceil(state.remaining / max(pace, 1.0)))
    return min(1 << (found - 1).bit_length(), most)


def lay_out_stride(
    programs: Programs,
    spec: DenoiserSpec,
    pool: Pool,
    states: list[DecodeState],
    dtype: str,
    most: int,
) -> Stride:
    """Up to `most` next steps of `states`, which share their structure."""
    foreseen = [foresee(state, most) for state in states]
    steps: list[StrideStep] = []
    tensors: dict[str, Tensor] = {}
    for number, each in enumerate(zip(*foreseen, strict=False)):
        statistics = {s.statistics_of(f.evaluation) for s, f in zip(states, each, strict=True)}
        if len(statistics) > 1:
            break
        steps.append(_step(programs, pool, states, dtype, each))
        found = lay_out_group(
            steps[-1].plan,
            spec,
            pool.slots,
            states,
            steps[-1].evaluations,
            [one.draws for one in each],
        )
        found["values"] = lay_out_values([one.knobs for one in each])
        tensors |= {f"{number}/{name}": tensor for name, tensor in found.items()}
    # Powers of two alone: every other number of steps would be captured by itself.
    count = 1 << (len(steps).bit_length() - 1)
    kept = {n: t for n, t in tensors.items() if int(n.partition("/")[0]) < count}
    return Stride(states, steps[:count], kept)


def _step(
    programs: Programs,
    pool: Pool,
    states: list[DecodeState],
    dtype: str,
    foreseen: Sequence[Foreseen],
) -> StrideStep:
    evaluations = [one.evaluation for one in foreseen]
    needs = [need_of(s, dtype, e) for s, e in zip(states, evaluations, strict=True)]
    plan = programs.fit(cover(needs, pool.slots, pool.scratch))
    return StrideStep(plan, needs, evaluations, foreseen[0].knobs)


def run_stride(
    programs: Programs,
    spec: DenoiserSpec,
    pool: Pool,
    stride: Stride,
    tensors: Mapping[str, Tensor],
    selects: Selects,
) -> Results:
    """What the device does in a stride; the host waits for nothing in here.

    Args:
        programs: That evaluate.
        spec: Of the denoiser.
        pool: Of the sequences.
        stride: Whose values all are in `tensors`.
        tensors: Those of the stride, on the device.
        selects: That decide.

    Returns:
        What is told of each step; nothing of one that only filled caches.
    """
    active = torch.ones_like(tensors["0/single"])
    results: Results = []
    for number, step in enumerate(stride.steps):
        prefix = f"{number}/"
        given = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        values = named_values(step.knobs, given.pop("values"))
        canvas = pool.canvas[given["rows"]]
        group = Group(stride.states, step.evaluations, step.plan, canvas=canvas, **given)
        group = _idling(group, active, pool.slots)
        inputs = step_inputs(spec, pool, group) | policy_inputs(pool, group, spec)
        statistics = run(programs, spec, pool, group, inputs)
        if not statistics:
            results.append({})
            continue
        rows = rows_of(spec, pool, one_each(group, []), named_statistics(step.plan, statistics))
        eos = eos_tensor(tuple(spec.eos_ids), active.device)
        first = stride.states[0]
        decisions = selects.decide(first, rows, values, eos, None)
        write_decisions(pool, group.rows, decisions, first, active)
        finished = find_finished(spec, pool, group, eos)
        results.append(told_tensors(decisions, finished))
        active = active & ~finished & _undecided(spec, pool, group)
        if decisions.cut is not None:
            active = active & (decisions.cut >= group.response[:, 1])
    return results


def _idling(group: Group, active: Tensor, scratch: int) -> Group:
    """The group with nothing but padding for sequences that are not `active` `[B]`."""
    lasting = active[:, None]
    return dataclasses.replace(
        group,
        evaluated=group.evaluated & lasting,
        offered=group.offered & lasting,
        head=torch.where(lasting, group.head, scratch),
    )


def _undecided(spec: DenoiserSpec, pool: Pool, group: Group) -> Tensor:
    """`[B]` bool, whether the block has a mask left."""
    canvas = pool.canvas[group.rows]
    offsets = torch.arange(canvas.shape[1], device=canvas.device)
    inside = (offsets >= group.span[:, :1]) & (offsets < group.span[:, 1:])
    return ((canvas == spec.mask_id) & inside).any(dim=-1)


def tell_stride(stride: Stride, results: Sequence[Mapping[str, Tensor]], seconds: float) -> None:
    """Tell every sequence what the steps that it was active in did to it.

    Args:
        stride: That was taken.
        results: Of every step, on the host.
        seconds: That a step took.
    """
    owners = range(len(stride.states))
    blocks = [(state.block_index, state.length) for state in stride.states]
    active = list(owners)
    for step, tensors in zip(stride.steps, results, strict=True):
        told = Told(tensors, owners) if tensors else None
        for index in active:
            state = stride.states[index]
            state.expect(step.evaluations[index])
            account_one(index, state, step.needs[index], step.plan.key, told, seconds)
        active = [index for index in active if _lasts(stride.states[index], *blocks[index])]


def _lasts(state: DecodeState, block: int, length: int) -> bool:
    return not state.done and (state.block_index, state.length) == (block, length)
