"""What a program is given for one evaluation of a group of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.runtime.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dllmc.policies.standing import Evaluation
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec, StepPlan


@dataclass(frozen=True)
class Group:
    """Sequences that are evaluated together, and where.

    Attributes:
        states: Of the sequences.
        evaluations: Of each.
        plan: That they need; `fit` may pad it.
        rows: `[B]` int64, their rows in the pool.
        canvas: `[B, slots + 1]` int64, their canvases.
        positions: `[B, W]` int64, evaluated; 0 where padded.
        evaluated: `[B, W]` bool, not padding.
        head: `[B, R]` int64, positions that may commit; the scratch position where padded.
        offered: `[B, R]` bool, not padding.
        head_rows: `[B, R]` int64, the row that predicts each.
        counters: `[B, 3]` int64: seed, stream and steps before this one.
        reach: `[B, 2]` int64: what lies before this position can be seen; and where the response
            starts.
        response: `[B, 2]` int64, start and end of the response.
        span: `[B, 2]` int64, start and end of the block.
        single: `[B]` bool, sequences of which one row alone may commit.
        temperature: `[B]` float32.
    """

    states: list[DecodeState]
    evaluations: list[Evaluation]
    plan: StepPlan
    rows: Tensor
    canvas: Tensor
    positions: Tensor
    evaluated: Tensor
    head: Tensor
    offered: Tensor
    head_rows: Tensor
    counters: Tensor
    reach: Tensor
    response: Tensor
    span: Tensor
    single: Tensor
    temperature: Tensor


def gather_group(
    plan: StepPlan, spec: DenoiserSpec, pool: Pool, states: list[DecodeState]
) -> Group:
    """Lay out `states` for a plan that fits them all."""
    evaluations = [state.evaluation() for state in states]
    draws = [state.draws for state in states]
    tensors = lay_out_group(plan, spec, pool.slots, states, evaluations, draws)
    moved = to_device(tensors, pool.canvas.device)
    return Group(states, evaluations, plan, canvas=pool.canvas[moved["rows"]], **moved)


def lay_out_group(
    plan: StepPlan,
    spec: DenoiserSpec,
    slots: int,
    states: Sequence[DecodeState],
    evaluations: Sequence[Evaluation],
    draws: Sequence[int],
) -> dict[str, Tensor]:
    """The tensors of a group but its canvas, on the host.

    Args:
        plan: That fits them all.
        spec: Of the denoiser.
        slots: Of the pool.
        states: Of the sequences.
        evaluations: Of each.
        draws: Steps of each before this one.
    """
    positions, evaluated = _padded([e.rows for e in evaluations], plan.rows, 0)
    head, offered = _padded([e.head for e in evaluations], plan.head_rows, slots)
    numbers = [(s.config.seed, s.stream, n) for s, n in zip(states, draws, strict=True)]
    # The hidden states of a pass stand where they predict.
    shift = 0 if evaluations[0].joint else spec.logit_shift
    return {
        "rows": torch.tensor([state.row for state in states]),
        "positions": positions,
        "evaluated": evaluated,
        "head": head,
        "offered": offered,
        "head_rows": _head_rows(shift, evaluations, head, offered),
        "counters": torch.tensor(numbers),
        "reach": torch.tensor([(s.reach, s.response_start) for s in states]),
        "response": torch.tensor([(s.response_start, s.length) for s in states]),
        "span": torch.tensor([s.current.span for s in states]),
        "single": torch.tensor([len(e.head) == 1 or e.first_only for e in evaluations]),
        "temperature": torch.tensor([s.config.temperature for s in states]),
    }


def step_inputs(spec: DenoiserSpec, pool: Pool, group: Group) -> dict[str, Tensor]:
    """The inputs of the program by name, but the caches."""
    plan = group.plan
    held = torch.arange(pool.slots + plan.scratch, device=pool.canvas.device)
    spare = (0, plan.scratch - 1)
    seed, stream, draws = (column.contiguous() for column in group.counters.unbind(1))
    return {
        "tokens": torch.where(group.evaluated, group.canvas.gather(1, group.positions), 0),
        "positions": group.positions,
        "slots": torch.where(group.evaluated, group.positions, pool.slots),
        "head_rows": group.head_rows,
        "key_limit": key_limit(spec, group.positions, group.reach),
        "key_positions": held.expand(len(group.states), -1).contiguous(),
        "key_tokens": torch.nn.functional.pad(group.canvas, spare),
        "seed": seed,
        "stream": stream,
        "nfe": draws,
        "temperature": group.temperature,
    }


def _padded(places: Sequence[Sequence[int]], width: int, padding: int) -> tuple[Tensor, Tensor]:
    """Positions `[B, width]` and where they are not padding."""
    lengths = torch.tensor([[len(each)] for each in places])
    offsets = torch.arange(width)
    given = offsets < lengths
    if all(isinstance(each, range) for each in places):
        starts = torch.tensor([[each[0] if each else 0] for each in places])
        return torch.where(given, starts + offsets, padding), given
    rows = [[*each, *[padding] * (width - len(each))] for each in places]
    return torch.tensor(rows), given


def _head_rows(
    shift: int, evaluations: Sequence[Evaluation], head: Tensor, offered: Tensor
) -> Tensor:
    """The row that predicts each head position.

    With shifted logits that is the row before; where that one is not evaluated, as before a
    window, the row predicts itself.
    """
    if all(isinstance(e.rows, range) for e in evaluations):
        start = torch.tensor([[e.rows[0]] for e in evaluations])
        found = (head - shift - start).clamp(min=0)
        return torch.where(offered, found, 0)
    rows = []
    for evaluation in evaluations:
        places = {position: index for index, position in enumerate(evaluation.rows)}
        predicting = [places.get(p - shift, places.get(p, 0)) for p in evaluation.head]
        rows.append([*predicting, *[0] * (head.shape[1] - len(predicting))])
    return torch.tensor(rows)


def key_limit(spec: DenoiserSpec, positions: Tensor, numbers: Tensor) -> Tensor:
    """What each sequence sees, `[B]`; with block-causal attention each row, `[B, W]`."""
    length, prompt = (column.contiguous() for column in numbers.unbind(1))
    if spec.attention_block is None:
        return length
    block, last = spec.attention_block, length[:, None]
    if spec.blocks_from == "canvas":
        return ((positions // block + 1) * block).minimum(last)
    origin = prompt[:, None]
    limit = origin + ((positions - origin) // block + 1) * block
    return torch.where(positions < origin, origin, limit.minimum(last))
