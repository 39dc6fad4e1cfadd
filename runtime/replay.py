"""Which steps a batch runs, from what each of its sequences needed: nothing is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dllmc.runtime.need import Need, as_run, cover
from dllmc.runtime.scheduler import choose_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dllmc.runtime.programs import Programs
    from dllmc.spec import StepPlan


class ReplayedStep(NamedTuple):
    """One step of a batch.

    Attributes:
        plan: Of the program that ran.
        joint: Whether it was the joint sampler's.
        sequences: Evaluated.
        gathered: Whether their caches were gathered, since not all of the batch took part.
    """

    plan: StepPlan
    joint: bool
    sequences: int
    gathered: bool


def replay(
    decodes: Sequence[Iterable[tuple[Need, int]]], programs: Programs
) -> Iterator[ReplayedStep]:
    """The steps that a batch of these decodes runs, as the scheduler would have formed them.

    Args:
        decodes: Run-length coded needs of each sequence of the batch.
        programs: That run it: they pad plans and caches.
    """
    flat = [[need for need, count in decode for _ in range(count)] for decode in decodes]
    every = [need for needs in flat for need in needs]
    slots = programs.slots(max((need.plan.slots for need in every), default=1))
    scratch = max((need.plan.scratch for need in every), default=1)
    kept = max((need.kept for need in every), default=0)
    at = [0] * len(flat)
    while pending := [i for i, needs in enumerate(flat) if at[i] < len(needs)]:
        needs = [flat[i][at[i]] for i in pending]
        chosen = choose_group([*map(_structure, needs)], [need.plan.rows for need in needs])
        group = [needs[index] for index in chosen]
        plan = as_run(programs.fit(cover(group, slots, scratch)), group, kept)
        many = any(need.plan.batch > 1 for need in group)
        yield ReplayedStep(plan, group[0].joint, len(group), many or len(group) < len(flat))
        for index in chosen:
            at[pending[index]] += 1


def _structure(need: Need) -> tuple[object, ...]:
    """What sequences of one configuration must share to be evaluated together."""
    plan = need.plan
    return plan.statistics, plan.saliency, need.kept > 0, need.joint
