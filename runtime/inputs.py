"""What a program is given for one evaluation of a group of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

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

    @property
    def single(self) -> Tensor:
        """`[B]` bool, sequences of which one row alone may commit."""
        found = [len(e.head) == 1 or e.first_only for e in self.evaluations]
        return torch.tensor(found, device=self.rows.device)


def gather_group(
    plan: StepPlan, spec: DenoiserSpec, pool: Pool, states: list[DecodeState]
) -> Group:
    """Lay out `states` for a plan that fits them all."""
    device = pool.canvas.device
    evaluations = [state.evaluation() for state in states]
    positions, evaluated = _padded([e.rows for e in evaluations], plan.rows, 0, device)
    head, offered = _padded([e.head for e in evaluations], plan.head_rows, pool.slots, device)
    numbers = [(s.config.seed, s.stream, s.draws) for s in states]
    rows = torch.tensor([state.row for state in states], device=device)
    # The hidden states of a pass stand where they predict.
    shift = 0 if evaluations[0].joint else spec.logit_shift
    return Group(
        states=states,
        evaluations=evaluations,
        plan=plan,
        rows=rows,
        canvas=pool.canvas[rows],
        positions=positions,
        evaluated=evaluated,
        head=head,
        offered=offered,
        head_rows=_head_rows(shift, evaluations, head, offered),
        counters=torch.tensor(numbers, device=device),
    )


def step_inputs(spec: DenoiserSpec, pool: Pool, group: Group) -> dict[str, Tensor]:
    """The inputs of the program by name, but the caches."""
    plan, states, device = group.plan, group.states, pool.canvas.device
    reach = [(s.reach, s.response_start) for s in states]
    numbers = torch.tensor(reach, device=device)
    held = torch.arange(pool.slots + plan.scratch, device=device)
    spare = (0, plan.scratch - 1)
    seed, stream, draws = (column.contiguous() for column in group.counters.unbind(1))
    return {
        "tokens": torch.where(group.evaluated, group.canvas.gather(1, group.positions), 0),
        "positions": group.positions,
        "slots": torch.where(group.evaluated, group.positions, pool.slots),
        "head_rows": group.head_rows,
        "key_limit": key_limit(spec, group.positions, numbers),
        "key_positions": held.expand(len(states), -1).contiguous(),
        "key_tokens": torch.nn.functional.pad(group.canvas, spare),
        "seed": seed,
        "stream": stream,
        "nfe": draws,
        "temperature": torch.tensor([s.config.temperature for s in states], device=device),
    }


def _padded(
    places: Sequence[Sequence[int]], width: int, padding: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Positions `[B, width]` and where they are not padding."""
    lengths = torch.tensor([[len(each)] for each in places], device=device)
    offsets = torch.arange(width, device=device)
    given = offsets < lengths
    if all(isinstance(each, range) for each in places):
        starts = torch.tensor([[each[0] if each else 0] for each in places], device=device)
        return torch.where(given, starts + offsets, padding), given
    rows = [[*each, *[padding] * (width - len(each))] for each in places]
    return torch.tensor(rows, device=device), given


def _head_rows(shift: int, evaluations: list[Evaluation], head: Tensor, offered: Tensor) -> Tensor:
    """The row that predicts each head position.

    With shifted logits that is the row before; where that one is not evaluated, as before a
    window, the row predicts itself.
    """
    if all(isinstance(e.rows, range) for e in evaluations):
        start = torch.tensor([[e.rows[0]] for e in evaluations], device=head.device)
        found = (head - shift - start).clamp(min=0)
        return torch.where(offered, found, 0)
    rows = []
    for evaluation in evaluations:
        places = {position: index for index, position in enumerate(evaluation.rows)}
        predicting = [places.get(p - shift, places.get(p, 0)) for p in evaluation.head]
        rows.append([*predicting, *[0] * (head.shape[1] - len(predicting))])
    return torch.tensor(rows, device=head.device)


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
