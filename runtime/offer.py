"""What is decided over: the statistics of an evaluation, laid out as decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.policies.axes import AXES
from dllmc.policies.rows import Rows
from dllmc.policies.standing import Part, part_progress
from dllmc.spec import statistics_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.standing import BlockProgress
    from dllmc.runtime.inputs import Group
    from dllmc.runtime.pool import Pool
    from dllmc.spec import DenoiserSpec, StepPlan

BASIC = ("ids", "logits", "tail")


def named_statistics(plan: StepPlan, results: Sequence[Tensor]) -> dict[str, Tensor]:
    """What a program returned, by the names of `Rows` and of `Rows.extra`."""
    _, extras = statistics_parts(plan.statistics)
    spelled = {"gather": ("gathered",), "top": ("top_ids", "top_logits")}
    names = [*BASIC]
    for kind in sorted(extras):
        names += spelled.get(kind, ("all" if kind == "logits" else kind,))
    return dict(zip(names, results, strict=False))


@dataclass(frozen=True)
class Offer:
    """The layout of N decisions over the head rows of a group.

    Attributes:
        group: That was evaluated.
        owners: The member of the group that each decision belongs to, as an index.
        parts: What each decides over.
        progresses: Where each stands.
        columns: `[N, L]` int64, head rows of each; None where it is all of its owner's.
        offered: `[N, L]` bool, not padding.
    """

    group: Group
    owners: list[int]
    parts: list[Part | None]
    progresses: list[BlockProgress]
    columns: Tensor | None
    offered: Tensor

    @property
    def rows(self) -> Tensor:
        """`[N]` int64, rows in the pool."""
        return self.group.rows[self._owner]

    @property
    def _owner(self) -> Tensor:
        return torch.tensor(self.owners, device=self.group.rows.device)

    def take(self, value: Tensor, padding: int | None = None) -> Tensor:
        """`value` `[B, R, ...]` as `[N, L, ...]`."""
        if self.columns is None:
            return value
        taken = value[self._owner[:, None], self.columns]
        return taken if padding is None else torch.where(self.offered, taken, padding)


def offer(
    group: Group, progresses: Sequence[BlockProgress], parts: Sequence[Sequence[Part]]
) -> Offer:
    """Lay out the decisions of `group`: one per member, or one per part of it.

    Args:
        group: That was evaluated.
        progresses: Of each member.
        parts: Of each member; one part is all of its head rows.
    """
    if all(len(each) == 1 for each in parts):
        members = list(range(len(group.states)))
        alone: list[Part | None] = [None] * len(members)
        return Offer(group, members, alone, list(progresses), None, group.offered)
    owners, found, stands, columns = list[int](), list[Part | None](), [], list[list[int]]()
    for index, (state, each) in enumerate(zip(group.states, parts, strict=True)):
        head = group.evaluations[index].head
        for part in each:
            owners.append(index)
            found.append(part)
            place = state.masked, state.response_start
            stands.append(part_progress(progresses[index], part, *place))
            columns.append([j for j, p in enumerate(head) if part.span[0] <= p < part.span[1]])
    width = max(map(len, columns))
    device = group.rows.device
    padded = [[*each, *[0] * (width - len(each))] for each in columns]
    lengths = torch.tensor([[len(each)] for each in columns], device=device)
    offered = torch.arange(width, device=device) < lengths
    return Offer(group, owners, found, stands, torch.tensor(padded, device=device), offered)


def rows_of(
    spec: DenoiserSpec, pool: Pool, offered: Offer, statistics: Mapping[str, Tensor]
) -> Rows:
    """The rows that policies decide over."""
    group = offered.group
    found = {name: offered.take(value) for name, value in statistics.items()}
    positions = offered.take(group.head, pool.slots)
    tokens = offered.take(group.canvas.gather(1, group.head))
    masked = offered.offered & (tokens == spec.mask_id)
    device, owner = masked.device, torch.tensor(offered.owners, device=masked.device)
    waits = [part is not None and part.waits for part in offered.parts]
    single = group.single[owner]
    return Rows(
        mask_id=spec.mask_id,
        positions=positions,
        tokens=tokens,
        offered=offered.offered,
        masked=masked,
        eligible=masked,
        ids=found["ids"],
        logits=found["logits"],
        tail=found["tail"],
        doubt=found["tail"],
        single=single,
        waits=torch.tensor(waits, device=device),
        counters=group.counters[owner],
        extra={name: value for name, value in found.items() if name not in BASIC},
        memory=pool.recall(group.states[0], offered.rows, positions),
        noised=offered.take(group.positions.gather(1, group.head_rows)),
        temperature=_temperature(offered),
        vocab_size=spec.vocab_size,
    )


def constraint_values(offered: Offer) -> dict[str, Tensor]:
    """Where the constraint of each decision stands, `[N]` int64."""
    group, found = offered.group, []
    for owner in offered.owners:
        state, head = group.states[owner], group.evaluations[owner].head
        last = min(head[-1] + 1, state.response_end)
        found.append((state.text_state(head[0]), state.response_end - last, state.response_end))
    columns = torch.tensor(found, device=group.rows.device).unbind(1)
    return dict(zip(("state", "remaining", "end"), columns, strict=True))


def _temperature(offered: Offer) -> Tensor | None:
    states = offered.group.states
    found = [states[owner].config.temperature for owner in offered.owners]
    return torch.tensor(found, device=offered.group.rows.device) if any(found) else None


def values_of(offered: Offer) -> dict[str, dict[str, Tensor]]:
    """Knobs of the policies by axis, as tensors `[N]`."""
    states, device = offered.group.states, offered.group.rows.device
    found = {}
    for axis in AXES:
        rows = [
            getattr(states[owner].config, axis).values(progress)
            for owner, progress in zip(offered.owners, offered.progresses, strict=True)
        ]
        found[axis] = {
            name: torch.tensor([r[name] for r in rows], device=device).float() for name in rows[0]
        }
    return found
