"""Several steps verified in one evaluation: a lane per prefix of the drafts.

Lane j holds the canvas with the first drafts filled in, and is evaluated as stepwise decoding
would evaluate it, so that a chain of lanes whose decisions are the next lane's canvas is what
stepwise decoding does. Lanes stand beside one another in the batch, each with a copy of the
cache, or in one row as a tree, each in scratch slots of its own.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from dllmc.runtime.inputs import key_limit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.standing import BlockProgress
    from dllmc.runtime.inputs import Group
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs
    from dllmc.runtime.select import Decisions
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec

    Statistics = tuple[Tensor, ...]


def draft_counts(states: Sequence[DecodeState]) -> list[list[int]]:
    """Drafts filled in every lane of each sequence; the last lane repeats if there are fewer."""
    counts = [state.drafts() for state in states]
    most = max(map(len, counts))
    return [[*each, *each[-1:] * (most - len(each))] for each in counts]


def fill_drafts(pool: Pool, group: Group, counts: list[list[int]], mask_id: int) -> Group:
    """The group whose lanes, K of each sequence in turn, hold their drafts.

    The drafts are what the last evaluation would have committed next, surest first.
    """
    lanes = len(counts[0])
    first = slice(None, None, lanes)
    head, offered = group.head[first], group.offered[first]
    memory = pool.recall(group.states[0], group.rows[first], head)
    tokens = group.canvas.gather(1, group.head)
    masked = offered & (tokens[first] == mask_id)
    doubt = memory["verify.doubt"].clamp(max=torch.finfo(torch.float32).max)
    order = torch.where(masked, doubt, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    numbers = torch.tensor(counts, device=head.device)
    filled = masked[:, None] & (order[:, None] < numbers[..., None])
    drafts = torch.where(filled, memory["verify.ids"][:, None], tokens.unflatten(0, (-1, lanes)))
    canvas = group.canvas.scatter(1, group.head, drafts.flatten(0, 1))
    return dataclasses.replace(group, canvas=canvas)


def lane_progress(states: Sequence[DecodeState], counts: list[list[int]]) -> list[BlockProgress]:
    """Where each lane stands in its block."""
    return [
        dataclasses.replace(
            progress,
            # A lane that repeats another is as many steps on.
            step=progress.step + each.index(count),
            remaining=progress.remaining - count,
            evaluations=progress.evaluations + each.index(count),
        )
        for state, each in zip(states, counts, strict=True)
        for progress in [state.progress]
        for count in each
    ]


def run_batch(
    programs: Programs, pool: Pool, group: Group, inputs: Mapping[str, Tensor]
) -> tuple[Statistics, dict[str, Tensor]]:
    """Evaluate every lane on a copy of the cache; the copies come back with the statistics."""
    caches = programs.gather(pool.caches, group.rows)
    return programs.run(group.plan, {**inputs, **caches}), caches


def keep_lane(pool: Pool, group: Group, caches: Mapping[str, Tensor], best: Tensor) -> None:
    """Write back the copies of the lanes `best` `[S]`, as indices of the group."""
    for name, cache in caches.items():
        pool.caches[name].index_copy_(0, group.rows[best], cache.index_select(0, best))


def run_tree(
    programs: Programs,
    spec: DenoiserSpec,
    pool: Pool,
    group: Group,
    inputs: Mapping[str, Tensor],
    lanes: int,
) -> Statistics:
    """Evaluate the lanes of each sequence in one row; the canvas slots of the cache stay."""
    wide = _tree_inputs(spec, pool, group, inputs, lanes)
    plan = group.plan.model_copy(
        update={
            "batch": len(group.states) // lanes,
            "rows": wide["tokens"].shape[1],
            "head_rows": wide["head_rows"].shape[1],
            "mask": f"{group.plan.mask}+tree",
        }
    )
    rows = group.rows[::lanes]
    caches = programs.gather(pool.caches, rows)
    statistics = programs.run(plan, {**wide, **caches})
    for name, cache in caches.items():
        pool.caches[name].index_copy_(0, rows, cache)
    return tuple(value.unflatten(1, (lanes, -1)).flatten(0, 1) for value in statistics)


def _tree_inputs(
    spec: DenoiserSpec, pool: Pool, group: Group, inputs: Mapping[str, Tensor], lanes: int
) -> dict[str, Tensor]:
    """The inputs of a step whose rows are those of all lanes, one lane after the other."""
    device, width = group.rows.device, group.positions.shape[1]
    every = len(group.states) // lanes
    own = pool.slots + torch.arange(lanes * width, device=device).expand(every, -1)
    evaluated = group.evaluated.unflatten(0, (-1, lanes)).flatten(1)
    waste = pool.slots + pool.scratch - 1
    wide = {
        name: inputs[name].unflatten(0, (-1, lanes)).flatten(1) for name in ("tokens", "positions")
    }
    offsets = width * torch.arange(lanes, device=device)[:, None]
    head_rows = group.head_rows.unflatten(0, (-1, lanes)) + offsets
    held = inputs["key_positions"][::lanes].clone()
    tokens = inputs["key_tokens"][::lanes].clone()
    held[:, pool.slots : pool.slots + lanes * width] = wide["positions"]
    tokens[:, pool.slots : pool.slots + lanes * width] = wide["tokens"]
    limit = torch.full((every,), pool.slots + pool.scratch, device=device)
    if group.plan.mask == "row_limit":
        numbers = [(s.length, s.response_start) for s in group.states[::lanes]]
        limit = key_limit(spec, wide["positions"], torch.tensor(numbers, device=device))
    return {
        **{name: value[::lanes] for name, value in inputs.items()},
        **wide,
        "slots": torch.where(evaluated, own, waste),
        "head_rows": head_rows.flatten(1),
        "key_positions": held,
        "key_tokens": tokens,
        "key_limit": limit,
        "key_mask": _tree_mask(pool, group, lanes),
    }


def _tree_mask(pool: Pool, group: Group, lanes: int) -> Tensor:
    """`[S, K W, slots]` bool: a row sees the canvas but for the window, and its own lane."""
    device, width = group.rows.device, group.positions.shape[1]
    positions, evaluated = group.positions[::lanes], group.evaluated[::lanes]
    lengths = torch.tensor([[s.length] for s in group.states[::lanes]], device=device)
    canvas = (torch.arange(pool.slots + 1, device=device) < lengths).clone()
    canvas.scatter_(1, torch.where(evaluated, positions, pool.slots), False)
    lane = torch.arange(lanes * width, device=device) // width
    mine = (lane[:, None] == lane) & evaluated.repeat(1, lanes)[:, None]
    seen = canvas[:, None, : pool.slots].expand(-1, lanes * width, -1)
    spare = pool.scratch - lanes * width
    return torch.cat((seen, F.pad(mine, (0, spare))), dim=2)


def promote(pool: Pool, group: Group, best: Tensor, lanes: int) -> None:
    """Copy what the lanes `best` `[S]` wrote into scratch to the slots of their positions."""
    width = group.positions.shape[1]
    rows, positions = group.rows[::lanes], group.positions[::lanes]
    source = pool.slots + (best % lanes)[:, None] * width
    source = source + torch.arange(width, device=best.device)
    target = torch.where(group.evaluated[::lanes], positions, pool.slots + pool.scratch - 1)
    for cache in pool.caches.values():
        cache[rows[:, None], :, target] = cache[rows[:, None], :, source]


def accept(decisions: Decisions, before: Tensor, lanes: int) -> tuple[Decisions, Tensor, Tensor]:
    """The decisions of each sequence's last lane that stepwise decoding would reach.

    Args:
        decisions: Of all lanes, K of each sequence in turn.
        before: `[S K, R]` int64, what stood at the head positions of each lane.
        lanes: K.

    Returns:
        Decisions `[S]`, the lanes `[S]` they are of, as indices of the group, and how many steps
        `[S]` they stand for.
    """
    then = decisions.tokens.unflatten(0, (-1, lanes))
    held = before.unflatten(0, (-1, lanes))
    agree = (then[:, :, None] == held[:, None]).all(-1)
    later = torch.arange(lanes, device=before.device)
    best = torch.zeros(len(agree), dtype=torch.int64, device=before.device)
    steps = torch.ones_like(best)
    for _ in range(lanes - 1):
        reached = agree.gather(1, best[:, None, None].expand(-1, 1, lanes))[:, 0]
        reached = reached & (later > best[:, None])
        following = torch.where(reached, later, 0).amax(1)
        steps = steps + (following > best)
        best = torch.maximum(best, following)
    index = best + lanes * torch.arange(len(best), device=best.device)
    return _at(decisions, index, held[:, 0]), index, steps


def _at(decisions: Decisions, index: Tensor, before: Tensor) -> Decisions:
    """The decisions of some lanes; what was filled in before them commits with them."""
    rows = decisions.rows
    picked: dict[str, Any] = {
        field.name: value[index]
        for field in dataclasses.fields(rows)
        if isinstance(value := getattr(rows, field.name), torch.Tensor)
    }
    memory = {name: value[index] for name, value in rows.memory.items()}
    extra = {name: value[index] for name, value in rows.extra.items()}
    tokens = decisions.tokens[index]
    committed = (before == rows.mask_id) & (tokens != rows.mask_id) & rows.offered[index]
    nothing = torch.zeros_like(committed)
    rows = dataclasses.replace(rows, **picked, memory=memory, extra=extra)
    return dataclasses.replace(
        decisions,
        rows=rows,
        committed=committed,
        replaced=nothing,
        reopened=nothing,
        tokens=tokens,
        end=None if decisions.end is None else decisions.end[index],
        cut=None,
    )
