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
        positions: `[B, R]` int64, canvas positions of the block's rows.
        eligible: `[B, R]` bool, rows that could commit.
        ids: `[B, R]` int64, candidates.
        logits: `[B, R]`, of the candidates.
        doubt: `[B, R]`, lower is surer.
        committed: `[B, R]` bool.
    """

    plan: StepPlan
    states: list[DecodeState]
    positions: Tensor
    eligible: Tensor
    ids: Tensor
    logits: Tensor
    doubt: Tensor
    committed: Tensor


def structure(state: DecodeState) -> tuple[object, ...]:
    """What sequences must share to be evaluated together; all else are tensor arguments."""
    config = state.config
    return (config.statistics, type(config.score), type(config.commit), type(config.stop))


def evaluate(
    programs: Programs, spec: DenoiserSpec, pool: Pool, states: list[DecodeState], dtype: str
) -> StepOutcome:
    """Evaluate `states`, which share their `structure`, and commit what their policies select."""
    device = pool.canvas.device
    spans = [state.rows() for state in states]
    plan = programs.fit(
        StepPlan(
            batch=len(states),
            rows=max(max(end - start for start, end in spans), 1),
            head_rows=max(end - start for start, end in (state.block for state in states)),
            slots=pool.slots,
            statistics=states[0].config.statistics,
            dtype=dtype,
        )
    )
    rows = torch.tensor([state.row for state in states], device=device)
    whole = len(states) == len(pool.canvas) and all(s.row == i for i, s in enumerate(states))
    canvas = pool.canvas if whole else pool.canvas[rows]

    numbers = [
        (*span, *state.block, state.length, state.config.seed, state.stream, state.nfe)
        for span, state in zip(spans, states, strict=True)
    ]
    # One row per quantity, so that each is contiguous: programs are compiled for that.
    by_quantity = torch.tensor(list(zip(*numbers, strict=True)), device=device)
    start, end, block_start, block_end = by_quantity[:4, :, None]
    length, seed, stream, nfe = by_quantity[4:]
    offsets = torch.arange(plan.rows, device=device)
    evaluated = offsets < end - start
    positions = torch.where(evaluated, start + offsets, 0)
    head_offsets = torch.arange(plan.head_rows, device=device)
    in_block = head_offsets < block_end - block_start
    head_positions = torch.where(in_block, block_start + head_offsets, block_start)
    before = canvas.gather(1, head_positions)
    eligible = in_block & (before == spec.mask_id)

    inputs = {
        "tokens": torch.where(evaluated, canvas.gather(1, positions), 0),
        "positions": positions,
        "slots": torch.where(evaluated, positions, pool.slots),
        "head_rows": head_positions - start,
        "key_limit": length,
        "seed": seed,
        "stream": stream,
        "nfe": nfe,
        "temperature": torch.tensor([s.config.temperature for s in states], device=device),
    }
    caches = pool.caches if whole else {n: c.index_select(0, rows) for n, c in pool.caches.items()}
    ids, logits, tail = programs.run(plan, inputs | caches)
    if not whole:
        for name, cache in caches.items():
            pool.caches[name].index_copy_(0, rows, cache)

    config = states[0].config
    doubt = config.score.doubt(tail)
    values = _values(states, device)
    committed = commit_rows(type(config.commit), doubt, eligible, values)
    after = torch.where(committed, ids, before)
    # Padded head rows repeat the block's first position: give all of them its new token.
    after = torch.where(in_block, after, after[:, :1])
    pool.canvas[rows[:, None], head_positions] = after
    _advance(spec, pool, states, spans, plan, rows, head_positions, committed, ids)
    return StepOutcome(plan, states, head_positions, eligible, ids, logits, doubt, committed)


def _values(states: list[DecodeState], device: torch.device) -> dict[str, Tensor]:
    """Knobs of the commit policies as tensors `[B]`."""
    rows = [state.config.commit.values(state.progress) for state in states]
    return {
        name: torch.tensor([row[name] for row in rows], device=device, dtype=torch.float32)
        for name in rows[0]
    }


def _advance(
    spec: DenoiserSpec,
    pool: Pool,
    states: list[DecodeState],
    spans: list[tuple[int, int]],
    plan: StepPlan,
    rows: Tensor,
    positions: Tensor,
    committed: Tensor,
    ids: Tensor,
) -> None:
    canvas = pool.canvas[rows]
    offsets = torch.arange(pool.slots, device=canvas.device)
    first = torch.tensor([s.response_start for s in states], device=canvas.device)[:, None]
    last = torch.tensor([s.length for s in states], device=canvas.device)[:, None]
    # Outside the response neither a mask nor an end counts: -1 is no token.
    response = torch.where((offsets >= first) & (offsets < last), canvas, -1)
    eos = torch.tensor(spec.eos_ids, device=canvas.device, dtype=torch.int64)
    finished = states[0].config.stop.finished(response, spec.mask_id, eos)
    block_done = ~(canvas.gather(1, positions) == spec.mask_id).any(-1)
    # The one synchronisation of a step.
    flags = torch.stack((finished, block_done)).tolist()
    chosen, places, tokens = committed.tolist(), positions.tolist(), ids.tolist()
    for i, state in enumerate(states):
        picked = [j for j, flag in enumerate(chosen[i]) if flag]
        state.events.append(
            CommitEvent(
                nfe=state.nfe + 1,
                rows=spans[i],
                positions=tuple(places[i][j] for j in picked),
                tokens=tuple(tokens[i][j] for j in picked),
            )
        )
        state.advance(plan.key, len(picked), finished=flags[0][i], block_done=flags[1][i])
