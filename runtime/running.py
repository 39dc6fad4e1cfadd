"""Running a program on the caches of a group, and what becomes of the caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.runtime.joint import joint_inputs
from dllmc.runtime.kept import filter_caches, kept_inputs, with_saliency
from dllmc.spec import statistics_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dllmc.runtime.inputs import Group
    from dllmc.runtime.pool import Pool
    from dllmc.runtime.programs import Programs
    from dllmc.spec import DenoiserSpec, StepPlan

    Statistics = tuple[Tensor, ...]


def run(
    programs: Programs, spec: DenoiserSpec, pool: Pool, group: Group, inputs: Mapping[str, Tensor]
) -> Statistics:
    """Evaluate a group, each member on the caches of its row of the pool."""
    first = group.evaluations[0]
    if first.joint:
        return programs.run(group.plan, {**inputs, **joint_inputs(pool, group)})
    if first.kept:
        return _on(programs, group, kept_inputs(programs, pool, group, inputs), pool.kept)
    if first.keeps is None:
        return _on(programs, group, (group.plan, inputs), pool.caches)
    statistics = _on(programs, group, with_saliency(spec, group, inputs), pool.caches)
    saliencies = statistics[-len(pool.caches) // 2 :]
    filter_caches(pool, group, saliencies)
    return tuple(value[:, : group.plan.head_rows] for value in statistics[: -len(saliencies)])


def _on(
    programs: Programs,
    group: Group,
    call: tuple[StepPlan, Mapping[str, Tensor]],
    pool: dict[str, Tensor],
) -> Statistics:
    plan, inputs = call
    capacity = len(next(iter(pool.values())))
    if len(group.states) == capacity and all(s.row == i for i, s in enumerate(group.states)):
        return programs.run(plan, {**inputs, **pool})
    caches = programs.gather(pool, group.rows)
    statistics = programs.run(plan, {**inputs, **caches})
    for name, cache in caches.items():
        pool[name].index_copy_(0, group.rows, cache)
    return statistics


def policy_inputs(pool: Pool, group: Group, spec: DenoiserSpec) -> dict[str, Tensor]:
    """What policies give to the program: mixtures to embed, and tokens whose logits they ask."""
    found: dict[str, Tensor] = {}
    first = group.states[0]
    if first.config.belief.width:
        # Memory of every evaluated row; those that are not masked, or that nothing has been
        # remembered of, are what they are.
        memory = pool.recall(first, group.rows, group.positions)
        tokens = group.canvas.gather(1, group.positions)
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
