"""One evaluation of a group of sequences: inputs, program, decisions, commit."""

from __future__ import annotations

import dataclasses
import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.runtime import branches
from dllmc.runtime.auxiliary import verify_blocks
from dllmc.runtime.inputs import Group, gather_group, step_inputs
from dllmc.runtime.need import cover, need_of
from dllmc.runtime.offer import (
    constraint_values,
    named_statistics,
    offer,
    rows_of,
    values_of,
)
from dllmc.runtime.running import policy_inputs, run
from dllmc.runtime.told import Told, account, told_tensors
from dllmc.runtime.transfer import to_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dllmc.runtime.auxiliary import Auxiliary
    from dllmc.runtime.need import Need
    from dllmc.runtime.offer import Offer
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs, Selects
    from dllmc.runtime.select import Decisions
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec, StepPlan


@dataclass(frozen=True)
class StepOutcome:
    """What one evaluation decided.

    Attributes:
        plan: That ran.
        states: Sequences evaluated.
        decisions: Of every sequence, or None where nothing was offered.
        owners: The sequence of each decision, as an index.
        ends: Where the block of each ends, as its schedule chose now, or None.
        cuts: Where the response of each ends, as its stop policy said now, or None.
    """

    plan: StepPlan
    states: list[DecodeState]
    decisions: Decisions | None
    owners: Sequence[int] = ()
    ends: Sequence[int | None] | None = None
    cuts: Sequence[int | None] | None = None


def structure(state: DecodeState) -> tuple[object, ...]:
    """What sequences must share to be evaluated together; all else are tensor arguments."""
    evaluation = state.evaluation()
    # How saliencies are pooled is the same for all; what share of the keys is kept is not.
    kernel = None if evaluation.keeps is None else evaluation.keeps[1]
    return (state.statistics, kernel, evaluation.kept, evaluation.joint, state.structure)


def evaluate(
    programs: Programs,
    spec: DenoiserSpec,
    pool: Pool,
    states: list[DecodeState],
    dtype: str,
    selects: Selects,
    auxiliary: Auxiliary | None = None,
) -> StepOutcome:
    """Evaluate `states`, which share their `structure`, and commit what their policies select."""
    begun = time.perf_counter()
    if max(len(state.drafts()) for state in states) > 1:
        return _evaluate_lanes(programs, spec, pool, states, dtype, selects, begun)
    needs = [need_of(state, dtype) for state in states]
    plan = programs.fit(cover(needs, pool.slots, pool.scratch))
    group = gather_group(plan, spec, pool, states)
    inputs = step_inputs(spec, pool, group) | policy_inputs(pool, group, spec)
    statistics = run(programs, spec, pool, group, inputs)
    if not statistics:
        account(states, needs, plan.key, None, time.perf_counter() - begun)
        return StepOutcome(plan, states, None)
    found = named_statistics(plan, statistics)
    if spec.logit_shift and not group.evaluations[0].joint:
        _carry(spec, pool, group, found)
    if auxiliary is not None and states[0].config.verify.auxiliary == "step":
        found["auxiliary"] = auxiliary.about_candidates(pool, group, found["ids"])
    parts = [state.parts() for state in states]
    offered = offer(group, [state.progress for state in states], parts)
    decisions, eos = _decide(selects, spec, pool, offered, found)
    write_decisions(pool, offered.rows, decisions, states[0])
    finished = find_finished(spec, pool, group, eos)
    told = Told(to_host([told_tensors(decisions, finished)])[0], offered.owners)
    outcome = _outcome(plan, states, needs, decisions, told, offered.owners, begun)
    if auxiliary is not None:
        verify_blocks(auxiliary, pool, states)
    return outcome


def _evaluate_lanes(
    programs: Programs,
    spec: DenoiserSpec,
    pool: Pool,
    states: list[DecodeState],
    dtype: str,
    selects: Selects,
    begun: float,
) -> StepOutcome:
    """Evaluate `states` with their drafts, and commit what stepwise decoding would."""
    counts = branches.draft_counts(states)
    lanes = [state for state in states for _ in counts[0]]
    needs = [need_of(state, dtype) for state in states]
    plan = programs.fit(cover(needs, pool.slots, pool.scratch))
    group = gather_group(plan, spec, pool, lanes)
    group = branches.fill_drafts(pool, group, counts, spec.mask_id)
    inputs = step_inputs(spec, pool, group)
    tree = states[0].config.verify.tree
    if tree:
        statistics = branches.run_tree(programs, spec, pool, group, inputs, len(counts[0]))
    else:
        statistics, caches = branches.run_batch(programs, pool, group, inputs)
    found = named_statistics(plan, statistics)
    if spec.logit_shift:
        _carry(spec, pool, group, found)
    progresses = branches.lane_progress(states, counts)
    offered = offer(group, progresses, [state.parts() for state in lanes])
    every, eos = _decide(selects, spec, pool, offered, found)
    decisions, best, steps = branches.accept(every, every.rows.tokens, len(counts[0]))
    if tree:
        branches.promote(pool, group, best, len(counts[0]))
    else:
        branches.keep_lane(pool, group, caches, best)
    owners = list(range(len(states)))
    write_decisions(pool, group.rows[best], decisions, states[0])
    own = dataclasses.replace(
        group, rows=group.rows[:: len(counts[0])], response=group.response[:: len(counts[0])]
    )
    finished = find_finished(spec, pool, own, eos)
    told = Told(to_host([told_tensors(decisions, finished, steps)])[0], owners)
    return _outcome(plan, states, needs, decisions, told, owners, begun)


def _decide(
    selects: Selects, spec: DenoiserSpec, pool: Pool, offered: Offer, found: dict[str, Tensor]
) -> tuple[Decisions, Tensor]:
    rows = rows_of(spec, pool, offered, found)
    eos = eos_tensor(tuple(spec.eos_ids), rows.ids.device)
    first = offered.group.states[0]
    values = values_of(offered)
    if first.automaton is not None:
        values["constrain"] = constraint_values(offered)
    return selects.decide(first, rows, values, eos, first.automaton), eos


def write_decisions(
    pool: Pool,
    rows: Tensor,
    decisions: Decisions,
    state: DecodeState,
    active: Tensor | None = None,
) -> None:
    """Write tokens and memory; padding goes to the scratch position.

    Args:
        pool: Of the sequences.
        rows: `[N]` int64, rows in the pool.
        decisions: Of each.
        state: Of one of them.
        active: `[N]` bool, those whose memory changes; None is all.
    """
    positions = decisions.rows.positions
    pool.canvas[rows[:, None], positions] = decisions.tokens
    pool.keep(state, rows, positions, decisions.rows.memory, active)


def _outcome(
    plan: StepPlan,
    states: list[DecodeState],
    needs: list[Need],
    decisions: Decisions,
    told: Told,
    owners: list[int],
    begun: float,
) -> StepOutcome:
    did = account(states, needs, plan.key, told, time.perf_counter() - begun)
    ends, cuts = [each.end for each in did], [each.cut for each in did]
    return StepOutcome(plan, states, decisions, owners, ends, cuts)


def _carry(spec: DenoiserSpec, pool: Pool, group: Group, found: dict[str, Tensor]) -> None:
    """Remember what a refresh predicts for a block's first position, or put it back in a window.

    Only where the configuration asks for it: published loops let the first row predict itself.
    """
    caches = [state.config.cache for state in group.states]
    carry = [getattr(cache, "window_first", "self") == "carried" for cache in caches]
    if not any(carry):
        return
    wanted = [
        carries and e.head[0] - spec.logit_shift not in e.rows
        for carries, e in zip(carry, group.evaluations, strict=True)
    ]
    renewed = [evaluation.refresh for evaluation in group.evaluations]
    flags = torch.tensor([renewed, wanted], device=group.rows.device)
    for name, value in found.items():
        carried = pool.carried_of(name, value)
        renews, takes = flags.view(2, -1, *[1] * (value.dim() - 2))
        kept = torch.where(renews, value[:, 0], carried[group.rows])
        carried[group.rows] = kept
        first = torch.where(takes, kept, value[:, 0])
        found[name] = torch.cat((first[:, None], value[:, 1:]), dim=1)


def find_finished(spec: DenoiserSpec, pool: Pool, group: Group, eos: Tensor) -> Tensor:
    """`[B]` bool, responses that the stop policy finds finished."""
    canvas = pool.canvas[group.rows]
    offsets = torch.arange(canvas.shape[1], device=canvas.device)
    # Outside the response neither a mask nor an end counts: -1 is no token.
    inside = (offsets >= group.response[:, :1]) & (offsets < group.response[:, 1:])
    response = torch.where(inside, canvas, -1)
    return group.states[0].config.stop.finished(response, spec.mask_id, eos)


@functools.lru_cache(maxsize=64)
def eos_tensor(ids: tuple[int, ...], device: torch.device) -> Tensor:
    """End-of-sequence tokens on `device`."""
    return torch.tensor(ids, device=device, dtype=torch.int64)
