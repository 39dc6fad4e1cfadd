"""What is decided over: the statistics of an evaluation, laid out as decisions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from dllmc.policies.axes import AXES
from dllmc.policies.rows import Rows
from dllmc.policies.standing import part_progress
from dllmc.runtime.transfer import to_device
from dllmc.spec import statistics_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.standing import BlockProgress, Part
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
        progresses: Where each stands.
        owner: `[N]` int64, `owners` on the device; None where every member has one decision.
        waits: `[N]` bool, decisions that may commit nothing.
        columns: `[N, L]` int64, head rows of each; None where it is all of its owner's.
        offered: `[N, L]` bool, not padding.
    """

    group: Group
    owners: list[int]
    progresses: list[BlockProgress]
    owner: Tensor | None
    waits: Tensor
    columns: Tensor | None
    offered: Tensor

    @property
    def rows(self) -> Tensor:
        """`[N]` int64, rows in the pool."""
        return self.own(self.group.rows)

    def own(self, value: Tensor) -> Tensor:
        """`value` `[B, ...]` of every decision's member."""
        return value if self.owner is None else value[self.owner]

    def take(self, value: Tensor, padding: int | None = None) -> Tensor:
        """`value` `[B, R, ...]` as `[N, L, ...]`."""
        if self.columns is None:
            return value
        assert self.owner is not None
        taken = value[self.owner[:, None], self.columns]
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
        return one_each(group, progresses)
    owners, waits, stands, columns = list[int](), list[bool](), [], list[list[int]]()
    for index, (state, each) in enumerate(zip(group.states, parts, strict=True)):
        head = group.evaluations[index].head
        for part in each:
            owners.append(index)
            waits.append(part.waits)
            place = state.masked, state.response_start
            stands.append(part_progress(progresses[index], part, *place))
            columns.append([j for j, p in enumerate(head) if part.span[0] <= p < part.span[1]])
    width = max(map(len, columns))
    lengths = torch.tensor([[len(each)] for each in columns])
    tensors = {
        "owner": torch.tensor(owners),
        "waits": torch.tensor(waits),
        "columns": torch.tensor([[*each, *[0] * (width - len(each))] for each in columns]),
        "offered": torch.arange(width) < lengths,
    }
    return Offer(group, owners, stands, **to_device(tensors, group.rows.device))


def one_each(group: Group, progresses: Sequence[BlockProgress]) -> Offer:
    """One decision per member, over all of its head rows."""
    members = list(range(len(group.states)))
    waits = torch.zeros_like(group.single)
    return Offer(group, members, list(progresses), None, waits, None, group.offered)


def rows_of(
    spec: DenoiserSpec, pool: Pool, offered: Offer, statistics: Mapping[str, Tensor]
) -> Rows:
    """The rows that policies decide over."""
    group = offered.group
    found = {name: offered.take(value) for name, value in statistics.items()}
    positions = offered.take(group.head, pool.slots)
    tokens = offered.take(group.canvas.gather(1, group.head))
    masked = offered.offered & (tokens == spec.mask_id)
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
        single=offered.own(group.single),
        waits=offered.waits,
        counters=offered.own(group.counters),
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
    drawn = any(state.config.temperature for state in offered.group.states)
    return offered.own(offered.group.temperature) if drawn else None


def values_of(offered: Offer) -> dict[str, dict[str, Tensor]]:
    """Knobs of the policies by axis, as tensors `[N]`."""
    states = offered.group.states
    found = [
        knobs(states[owner].config, progress)
        for owner, progress in zip(offered.owners, offered.progresses, strict=True)
    ]
    moved = to_device({"values": lay_out_values(found)}, offered.group.rows.device)["values"]
    return named_values(found[0], moved)


def knobs(config: DecodingConfig, progress: BlockProgress) -> dict[str, dict[str, float]]:
    """Knobs of the policies of one decision by axis."""
    found = {axis: getattr(config, axis).values(progress) for axis in AXES}
    return {axis: {n: float(v) for n, v in each.items()} for axis, each in found.items()}


def lay_out_values(decisions: Sequence[Mapping[str, Mapping[str, float]]]) -> Tensor:
    """`[K, N]` float32 on the host, the knobs of N decisions."""
    rows = [[v for each in found.values() for v in each.values()] for found in decisions]
    return torch.tensor(rows, dtype=torch.float32).T.contiguous()


def named_values(
    like: Mapping[str, Mapping[str, float]], values: Tensor
) -> dict[str, dict[str, Tensor]]:
    """Rows of `values` `[K, N]` by axis and name."""
    rows = iter(values.unbind(0))
    return {axis: {name: next(rows) for name in each} for axis, each in like.items()}
