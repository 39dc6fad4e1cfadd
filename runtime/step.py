"""One evaluation of a group of sequences: inputs, program, selection, commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.policies.axes import commit_rows
from dllmc.runtime.state import CommitEvent
from dllmc.spec import StepPlan

if TYPE_CHECKING:
    from torch import Tensor

    from dllmc.runtime.programs import Programs
    from dllmc.runtime.state import DecodeState, Pool
    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True)
class StepOutcome:
    """What one evaluation decided.

    Attributes:
        plan: That ran.
        states: Sequences evaluated, in the order of the rows below.
        positions: `[B, R]` int64, canvas positions of the rows that could commit.
        eligible: `[B, R]` bool, those of them that were masked.
        ids: `[B, R]` int64, candidates.
        logits: `[B, R]`, of the candidates.
        doubt: `[B, R]`, lower is surer.
        committed: `[B, R]` bool.
        revised: `[B, R]` bool, committed before and replaced now.
    """

    plan: StepPlan
    states: list[DecodeState]
    positions: Tensor
    eligible: Tensor
    ids: Tensor
    logits: Tensor
    doubt: Tensor
    committed: Tensor
    revised: Tensor


def structure(state: DecodeState) -> tuple[object, ...]:
    """What sequences must share to be evaluated together; all else are tensor arguments."""
    config = state.config
    policies = (config.score, config.commit, config.revise, config.stop)
    return (state.statistics, *(type(policy) for policy in policies))


def evaluate(
    programs: Programs, spec: DenoiserSpec, pool: Pool, states: list[DecodeState], dtype: str
) -> StepOutcome:
    """Evaluate `states`, which share their `structure`, and commit what their policies select."""
    device = pool.canvas.device
    evaluations = [state.evaluation() for state in states]
    plan = programs.fit(_plan(spec, pool, states, dtype))
    rows = torch.tensor([state.row for state in states], device=device)
    whole = len(states) == len(pool.canvas) and all(s.row == i for i, s in enumerate(states))
    canvas = pool.canvas if whole else pool.canvas[rows]

    numbers = [
        (*e.rows, *e.head, s.length, s.response_start, s.config.seed, s.stream, s.nfe)
        for e, s in zip(evaluations, states, strict=True)
    ]
    # One row per quantity, so that each is contiguous: programs are compiled for that.
    by_quantity = torch.tensor(list(zip(*numbers, strict=True)), device=device)
    start, end, head_start, head_end = by_quantity[:4, :, None]
    length, prompt, seed, stream, nfe = by_quantity[4:]
    offsets = torch.arange(plan.rows, device=device)
    evaluated = offsets < end - start
    positions = torch.where(evaluated, start + offsets, 0)
    head_offsets = torch.arange(plan.head_rows, device=device)
    offered = head_offsets < head_end - head_start
    head_positions = torch.where(offered, head_start + head_offsets, head_start)
    # With shifted logits the row before predicts; a window's first row has none and takes itself.
    head_rows = (head_positions - spec.logit_shift - start).clamp(min=0)
    held = torch.arange(pool.slots + plan.scratch, device=device)

    inputs = {
        "tokens": torch.where(evaluated, canvas.gather(1, positions), 0),
        "positions": positions,
        "slots": torch.where(evaluated, positions, pool.slots),
        "head_rows": head_rows,
        "key_limit": _key_limit(spec, positions, prompt, length),
        "key_positions": held.expand(len(states), -1).contiguous(),
        "key_tokens": torch.nn.functional.pad(canvas, (0, plan.scratch)),
        "seed": seed,
        "stream": stream,
        "nfe": nfe,
        "temperature": torch.tensor([s.config.temperature for s in states], device=device),
    }
    caches = pool.caches if whole else {n: c.index_select(0, rows) for n, c in pool.caches.items()}
    statistics = programs.run(plan, inputs | caches)
    if not whole:
        for name, cache in caches.items():
            pool.caches[name].index_copy_(0, rows, cache)
    if not statistics:
        return _filled(plan, states, head_positions)

    ids, logits, tail = statistics
    if spec.logit_shift:
        ids, logits, tail = _carry(pool, states, rows, (ids, logits, tail))
    before = canvas.gather(1, head_positions)
    eligible = offered & (before == spec.mask_id)
    config = states[0].config
    doubt = config.score.doubt(tail)
    single = (head_end - head_start == 1)[:, 0]
    committed = commit_rows(
        type(config.commit), doubt, eligible, _values(states, "commit", device), single
    )
    changed = offered & ~eligible & (before != ids) & ~single[:, None]
    revised = config.revise.select(doubt, changed, _values(states, "revise", device))
    after = torch.where(committed | revised, ids, before)
    # Padded head rows repeat the first position: give all of them its new token.
    after = torch.where(offered, after, after[:, :1])
    pool.canvas[rows[:, None], head_positions] = after
    outcome = StepOutcome(
        plan, states, head_positions, eligible, ids, logits, doubt, committed, revised
    )
    _advance(spec, pool, rows, outcome)
    return outcome


def _plan(spec: DenoiserSpec, pool: Pool, states: list[DecodeState], dtype: str) -> StepPlan:
    spans = [(state.evaluation().rows, state.evaluation().head) for state in states]
    return StepPlan(
        batch=len(states),
        rows=max(end - start for (start, end), _ in spans),
        head_rows=max(end - start for _, (start, end) in spans),
        slots=pool.slots,
        statistics=states[0].statistics,
        mask="limit" if spec.attention == "full" else "row_limit",
        dtype=dtype,
    )


def _key_limit(spec: DenoiserSpec, positions: Tensor, prompt: Tensor, length: Tensor) -> Tensor:
    """What each sequence sees, `[B]`; with block-causal attention each row, `[B, W]`."""
    if spec.attention_block is None:
        return length
    block, last = spec.attention_block, length[:, None]
    if spec.blocks_from == "canvas":
        return ((positions // block + 1) * block).minimum(last)
    origin = prompt[:, None]
    limit = origin + ((positions - origin) // block + 1) * block
    return torch.where(positions < origin, origin, limit.minimum(last))


def _carry(
    pool: Pool, states: list[DecodeState], rows: Tensor, statistics: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Remember what a refresh predicts for a block's first position, or put it back in a window.

    Only where the configuration asks for it: published loops let the first row predict itself.
    """
    wanted = [getattr(state.config.cache, "window_first", "self") == "carried" for state in states]
    if not any(wanted):
        return statistics
    renewed = [state.evaluation().refresh for state in states]
    carried = pool.carried[:, rows]
    fresh = torch.stack([value[:, 0].double() for value in statistics])
    kept = torch.where(torch.tensor(renewed, device=rows.device), fresh, carried)
    pool.carried[:, rows] = kept
    found = []
    for value, first in zip(statistics, kept, strict=True):
        first = torch.where(torch.tensor(wanted, device=rows.device), first, value[:, 0].double())
        found.append(torch.cat((first[:, None].to(value.dtype), value[:, 1:]), dim=1))
    return tuple(found)


def _values(states: list[DecodeState], axis: str, device: torch.device) -> dict[str, Tensor]:
    """Knobs of the policies of one axis as tensors `[B]`."""
    if axis == "commit":
        rows = [state.config.commit.values(state.progress) for state in states]
    else:
        rows = [state.config.revise.values() for state in states]
    return {
        name: torch.tensor([row[name] for row in rows], device=device, dtype=torch.float32)
        for name in rows[0]
    }


def _filled(plan: StepPlan, states: list[DecodeState], positions: Tensor) -> StepOutcome:
    """What an evaluation without statistics decided: nothing."""
    for state in states:
        rows = state.evaluation().rows
        state.events.append(CommitEvent(state.nfe + 1, rows, (), ()))
        state.advance(plan.key, ())
    nothing = torch.zeros_like(positions, dtype=torch.bool)
    zeros = torch.zeros_like(positions, dtype=torch.float32)
    return StepOutcome(plan, states, positions, nothing, positions, zeros, zeros, nothing, nothing)


def _advance(spec: DenoiserSpec, pool: Pool, rows: Tensor, outcome: StepOutcome) -> None:
    states = outcome.states
    canvas = pool.canvas[rows]
    offsets = torch.arange(pool.slots, device=canvas.device)
    first = torch.tensor([s.response_start for s in states], device=canvas.device)[:, None]
    last = torch.tensor([s.length for s in states], device=canvas.device)[:, None]
    # Outside the response neither a mask nor an end counts: -1 is no token.
    response = torch.where((offsets >= first) & (offsets < last), canvas, -1)
    eos = torch.tensor(spec.eos_ids, device=canvas.device, dtype=torch.int64)
    finished = states[0].config.stop.finished(response, spec.mask_id, eos)
    # The one synchronisation of a step.
    chosen = torch.stack((outcome.committed, outcome.revised)).tolist()
    ended, places, tokens = finished.tolist(), outcome.positions.tolist(), outcome.ids.tolist()
    for i, state in enumerate(states):
        picked = [j for j, flag in enumerate(chosen[0][i]) if flag]
        replaced = [j for j, flag in enumerate(chosen[1][i]) if flag]
        written = sorted((*picked, *replaced))
        state.events.append(
            CommitEvent(
                nfe=state.nfe + 1,
                rows=state.evaluation().rows,
                positions=tuple(places[i][j] for j in written),
                tokens=tuple(tokens[i][j] for j in written),
                revised=tuple(places[i][j] for j in replaced),
            )
        )
        state.advance(
            outcome.plan.key,
            [places[i][j] for j in picked],
            len(replaced),
            finished=ended[i],
        )
