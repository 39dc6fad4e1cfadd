"""Caches of which a part of the keys is kept, by saliency (Sparse-dLLM, arXiv 2508.02558).

The evaluation that filters returns per layer how much the block's rows attend to each slot. What
is kept is copied into a smaller cache, the block's rows behind it; later evaluations run on that
one, and the step is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dllmc.policies.standing import Evaluation
    from dllmc.runtime.inputs import Group
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec, StepPlan


def kept_count(length: int, block: Sequence[int], share: float) -> int:
    """Keys kept of those outside the block: the share, rounded down as published."""
    return int((length - len(block)) * share)


def with_saliency(
    spec: DenoiserSpec, group: Group, inputs: Mapping[str, Tensor]
) -> tuple[StepPlan, dict[str, Tensor]]:
    """The evaluation that returns saliencies too.

    With shifted logits the head rows are those before the block's; the block's last row comes
    with them, and the first does not count.
    """
    counts = group.offered.sum(1, keepdim=True)
    head_rows, weighted = group.head_rows, group.offered
    if spec.logit_shift:
        last = head_rows.gather(1, counts - 1) + spec.logit_shift
        head_rows = torch.cat((head_rows, last), dim=1)
        weighted = F.pad(weighted, (0, 1), value=True)
        weighted[:, 0] = False
    weights = weighted / counts
    plan = group.plan.model_copy(update={"head_rows": head_rows.shape[1], "saliency": True})
    return plan, {**inputs, "head_rows": head_rows, "head_weights": weights}


def filter_caches(pool: Pool, group: Group, saliencies: Sequence[Tensor]) -> None:
    """Copy what each layer keeps of the keys outside the block into the smaller cache.

    Args:
        pool: Of the sequences.
        group: That was evaluated.
        saliencies: `[B, S]` per layer.
    """
    device = group.rows.device
    outside = [_outside(s, e) for s, e in zip(group.states, group.evaluations, strict=True)]
    width = max(map(len, outside))
    places = torch.tensor([[*o, *[pool.slots] * (width - len(o))] for o in outside], device=device)
    real = torch.arange(width, device=device) < torch.tensor([[len(o)] for o in outside]).to(
        device
    )
    counts = [_count(state) for state in group.states]
    most = max(counts)
    names = list(pool.caches)
    _allocate(pool)
    keeps = group.evaluations[0].keeps
    assert keeps is not None
    for layer, saliency in enumerate(saliencies):
        kept = _most_salient(saliency.gather(1, places), real, keeps[1], most)
        chosen = places.gather(1, kept)
        for name in names[2 * layer : 2 * layer + 2]:
            picked = pool.caches[name][group.rows[:, None], :, chosen]
            pool.kept[name][group.rows, :, :most] = picked.transpose(1, 2)


def _most_salient(scores: Tensor, real: Tensor, kernel: int, count: int) -> Tensor:
    """Indices `[B, count]` of the largest scores after pooling; ties to the lower position."""
    scores = torch.where(real, scores, -torch.inf)
    if kernel > 1:
        scores = F.max_pool1d(scores[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
        scores = torch.where(real, scores, -torch.inf)
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


def kept_inputs(
    programs: Programs, pool: Pool, group: Group, inputs: Mapping[str, Tensor]
) -> tuple[StepPlan, dict[str, Tensor]]:
    """The evaluation of the block's rows over the kept keys."""
    device = group.rows.device
    slots = next(iter(pool.kept.values())).shape[2] - 1
    plan = group.plan.model_copy(update={"slots": slots, "scratch": 1})
    graph = programs.graph(plan)
    named = {str(node.target) for node in graph.graph.nodes if node.op == "placeholder"}
    if named & {"key_positions", "key_tokens"}:
        raise ConfigError(
            "`cache.kind`='sparse' keeps other keys in every layer, and this model's attention "
            "asks where a key stands; use 'dual'"
        )
    counts = [_count(state) for state in group.states]
    starts = [e.rows[0] for e in group.evaluations]
    lengths = [len(e.rows) for e in group.evaluations]
    numbers = torch.tensor([counts, starts, lengths], device=device)
    count, start, length = numbers[:, :, None]
    placed = torch.where(group.evaluated, group.positions - start + count, slots)
    return plan, {**inputs, "slots": placed, "key_limit": (count + length)[:, 0]}


def _outside(state: DecodeState, evaluation: Evaluation) -> list[int]:
    block = set(range(*state.current.span))
    return [position for position in evaluation.rows if position not in block]


def _count(state: DecodeState) -> int:
    share = getattr(state.config.cache, "ratio", 1.0)
    return kept_count(state.length, range(*state.current.span), share)


def kept_slots(state: DecodeState) -> int:
    """Slots that a cache takes which keeps the share of `state`; 0 where it keeps all."""
    share = getattr(state.config.cache, "ratio", None)
    if share is None:
        return 0
    longest = max(block.span[1] - block.span[0] for block in state.blocks)
    return int(state.length * share) + longest + 1


def _allocate(pool: Pool) -> None:
    """The smaller cache, large enough for every member of the pool."""
    if pool.kept:
        return
    needed = max(map(kept_slots, pool.members))
    for name, cache in pool.caches.items():
        capacity, groups, _, width = cache.shape
        pool.kept[name] = cache.new_zeros(capacity, groups, needed + 1, width)
