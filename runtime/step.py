"""One evaluation of a group of sequences: inputs, program, decisions, commit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.policies.rows import Rows
from dllmc.runtime.inputs import Group, gather_group, plan_of, step_inputs
from dllmc.runtime.select import Decisions, decide
from dllmc.runtime.state import Advance
from dllmc.runtime.trace import TraceStep
from dllmc.spec import statistics_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec, StepPlan

_BASIC = ("ids", "logits", "tail")


@dataclass(frozen=True)
class StepOutcome:
    """What one evaluation decided.

    Attributes:
        plan: That ran.
        states: Sequences evaluated, in the order of the decisions below.
        decisions: Of every sequence, or None where nothing was offered.
        ends: Where the block of each ends, as its schedule chose now, or None.
        cuts: Where the response of each ends, as its stop policy said now, or None.
    """

    plan: StepPlan
    states: list[DecodeState]
    decisions: Decisions | None
    ends: Sequence[int | None] | None = None
    cuts: Sequence[int | None] | None = None


def structure(state: DecodeState) -> tuple[object, ...]:
    """What sequences must share to be evaluated together; all else are tensor arguments."""
    policies = state.config.policies
    return (state.statistics, *(p.structure() for p in policies if p.axis != "cache"))


def evaluate(
    programs: Programs, spec: DenoiserSpec, pool: Pool, states: list[DecodeState], dtype: str
) -> StepOutcome:
    """Evaluate `states`, which share their `structure`, and commit what their policies select."""
    begun = time.perf_counter()
    plan = programs.fit(plan_of(spec, pool, states, dtype))
    group = gather_group(plan, spec, pool, states)
    inputs = step_inputs(spec, pool, group) | _policy_inputs(pool, group, spec)
    statistics = _run(programs, pool, group, inputs)
    if not statistics:
        _account(group, None, (), begun)
        return StepOutcome(plan, states, None)
    found = named_statistics(plan, statistics)
    if spec.logit_shift:
        _carry(spec, pool, group, found)
    rows = _rows(spec, pool, group, found)
    eos = torch.tensor(spec.eos_ids, device=rows.ids.device, dtype=torch.int64)
    decisions = decide(states[0].config, rows, _values(group), eos)
    pool.canvas[group.rows[:, None], group.head] = decisions.tokens
    pool.keep(states[0], group.rows, group.head, decisions.rows.memory)
    finished = _finished(spec, pool, group, eos).tolist()
    told = _account(group, decisions, finished, begun)
    return StepOutcome(
        plan, states, decisions, [did.end for did in told], [did.cut for did in told]
    )


def named_statistics(plan: StepPlan, results: Sequence[Tensor]) -> dict[str, Tensor]:
    """What a program returned, by the names of `Rows` and of `Rows.extra`."""
    _, extras = statistics_parts(plan.statistics)
    spelled = {"gather": ("gathered",), "top": ("top_ids", "top_logits")}
    names = [*_BASIC]
    for kind in sorted(extras):
        names += spelled.get(kind, ("all" if kind == "logits" else kind,))
    return dict(zip(names, results, strict=False))


def _run(
    programs: Programs, pool: Pool, group: Group, inputs: Mapping[str, Tensor]
) -> tuple[Tensor, ...]:
    """Run the program on the caches of the group."""
    states, rows = group.states, group.rows
    if len(states) == len(pool.canvas) and all(s.row == i for i, s in enumerate(states)):
        return programs.run(group.plan, {**inputs, **pool.caches})
    caches = {name: cache.index_select(0, rows) for name, cache in pool.caches.items()}
    statistics = programs.run(group.plan, {**inputs, **caches})
    for name, cache in caches.items():
        pool.caches[name].index_copy_(0, rows, cache)
    return statistics


def _policy_inputs(pool: Pool, group: Group, spec: DenoiserSpec) -> dict[str, Tensor]:
    """What policies give to the program: mixtures to embed, and tokens whose logits they ask."""
    found: dict[str, Tensor] = {}
    first = group.states[0]
    if first.config.belief.width:
        # Memory of every evaluated row; those that are not masked, or that nothing has been
        # remembered of, are what they are.
        memory = pool.recall(first, group.rows, group.positions)
        tokens = pool.canvas[group.rows[:, None], group.positions]
        ids, weights = memory["belief.ids"].clone(), memory["belief.weights"].clone()
        decided = (tokens != spec.mask_id) | ~group.evaluated | (weights == 0).all(-1)
        ids[..., 0] = torch.where(decided, tokens, ids[..., 0])
        alone = torch.zeros_like(weights)
        alone[..., 0] = 1
        found["mixture_ids"] = ids
        found["mixture_weights"] = torch.where(decided[..., None], alone, weights)
    if "gather" in statistics_parts(group.plan.statistics)[1]:
        found["gather_ids"] = pool.recall(first, group.rows, group.head)["score.ids"]
    return found


def _rows(spec: DenoiserSpec, pool: Pool, group: Group, found: Mapping[str, Tensor]) -> Rows:
    tokens = pool.canvas[group.rows[:, None], group.head]
    masked = group.offered & (tokens == spec.mask_id)
    waits = torch.zeros(len(group.states), dtype=torch.bool, device=masked.device)
    return Rows(
        mask_id=spec.mask_id,
        positions=group.head,
        tokens=tokens,
        offered=group.offered,
        masked=masked,
        eligible=masked,
        ids=found["ids"],
        logits=found["logits"],
        tail=found["tail"],
        doubt=found["tail"],
        single=group.single,
        waits=waits,
        counters=group.counters,
        extra={name: value for name, value in found.items() if name not in _BASIC},
        memory=pool.recall(group.states[0], group.rows, group.head),
        vocab_size=spec.vocab_size,
    )


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
    device, rows = group.rows.device, group.rows
    renewed = torch.tensor([evaluation.refresh for evaluation in group.evaluations], device=device)
    fresh = torch.stack([found[name][:, 0].double() for name in _BASIC])
    kept = torch.where(renewed, fresh, pool.carried[:, rows])
    pool.carried[:, rows] = kept
    for name, first in zip(_BASIC, kept, strict=True):
        value = found[name]
        first = torch.where(torch.tensor(wanted, device=device), first, value[:, 0].double())
        found[name] = torch.cat((first[:, None].to(value.dtype), value[:, 1:]), dim=1)


def _values(group: Group) -> dict[str, dict[str, Tensor]]:
    """Knobs of the policies by axis, as tensors `[B]`."""
    progresses = [state.progress for state in group.states]
    found = {}
    for axis in type(group.states[0].config).model_fields:
        if axis in ("temperature", "seed"):
            continue
        rows = [
            getattr(state.config, axis).values(progress)
            for state, progress in zip(group.states, progresses, strict=True)
        ]
        found[axis] = {
            name: torch.tensor([r[name] for r in rows], device=group.rows.device).float()
            for name in rows[0]
        }
    return found


def _finished(spec: DenoiserSpec, pool: Pool, group: Group, eos: Tensor) -> Tensor:
    """`[B]` bool, responses that the stop policy finds finished."""
    states, device = group.states, group.rows.device
    canvas = pool.canvas[group.rows]
    offsets = torch.arange(canvas.shape[1], device=device)
    ends = torch.tensor([(s.response_start, s.length) for s in states], device=device)
    # Outside the response neither a mask nor an end counts: -1 is no token.
    inside = (offsets >= ends[:, :1]) & (offsets < ends[:, 1:])
    response = torch.where(inside, canvas, -1)
    return states[0].config.stop.finished(response, spec.mask_id, eos)


def _account(
    group: Group, decisions: Decisions | None, finished: Sequence[bool], begun: float
) -> list[Advance]:
    """Tell every sequence what the evaluation did to it."""
    host = None if decisions is None else _Host(decisions)
    seconds = time.perf_counter() - begun
    told = []
    for index, state in enumerate(group.states):
        did = Advance(group.plan.key, {})
        if host is not None:
            did = host.advance(index, group.plan.key, state, finished=finished[index])
        confidence = {} if host is None else host.confidences(index)
        state.trace.append(_trace_step(state, did, confidence, seconds))
        state.advance(did)
        told.append(did)
    return told


def _trace_step(
    state: DecodeState, did: Advance, confidence: Mapping[int, float], seconds: float
) -> TraceStep:
    reopened = dict.fromkeys(did.reopened, state.spec.mask_id)
    written = sorted({**did.committed, **did.replaced, **reopened}.items())
    return TraceStep(
        nfe=state.nfe + 1,
        rows=tuple(state.evaluation().rows),
        positions=tuple(position for position, _ in written),
        tokens=tuple(token for _, token in written),
        confidences=tuple(confidence[position] for position, _ in written),
        revised=tuple(sorted((*did.replaced, *did.reopened))),
        plan=did.plan,
        seconds=seconds,
    )


class _Host:
    """Decisions on the host: the one synchronisation of a step."""

    def __init__(self, decisions: Decisions) -> None:
        rows = decisions.rows
        flags = (decisions.committed, decisions.replaced, decisions.reopened)
        self._flags = torch.stack(flags).tolist()
        self._positions, self._tokens = torch.stack((rows.positions, decisions.tokens)).tolist()
        self._doubt = rows.doubt.tolist()
        self._ends = None if decisions.end is None else decisions.end.tolist()
        self._cuts = None if decisions.cut is None else decisions.cut.tolist()

    def advance(self, index: int, plan: str, state: DecodeState, *, finished: bool) -> Advance:
        committed, replaced, reopened = (
            {
                self._positions[index][j]: self._tokens[index][j]
                for j, flag in enumerate(flags[index])
                if flag
            }
            for flags in self._flags
        )
        end = self._ends[index] if self._ends is not None and state.opening else None
        cut = None if self._cuts is None else self._cuts[index]
        cut = None if cut is None or cut >= state.length else cut
        return Advance(plan, committed, replaced, tuple(reopened), finished, end, cut)

    def confidences(self, index: int) -> dict[int, float]:
        """Of every position, the probability that belongs to its doubt."""
        pairs = zip(self._positions[index], self._doubt[index], strict=True)
        return {position: 1 / (1 + doubt) for position, doubt in pairs}
