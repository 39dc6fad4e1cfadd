"""What a sequence needs of an evaluation by itself, whoever is evaluated with it.

The plan that runs covers the largest of a group, so it depends on the batch. What each needs does
not: a batch row decides as it does alone. So a decode's needs, which belong to the quality
evidence of a prompt, say what any batch of such prompts would have run (`dllmc.runtime.replay`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dllmc.runtime.kept import kept_slots
from dllmc.runtime.pool import scratch_of
from dllmc.spec import PlanError, StepPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.policies.standing import Evaluation
    from dllmc.runtime.state import DecodeState
    from dllmc.spec import DenoiserSpec


class Need(NamedTuple):
    """What one evaluation of one sequence takes.

    Attributes:
        plan: That would run it alone. Its `batch` is the number of canvases evaluated at once.
        kept: Slots of the cache that holds a part of the keys; 0 where all are read.
        shift: Head rows beyond those of the plan, where saliencies are returned.
        tree: Whether its canvases stand in one row.
        joint: Whether the joint sampler runs it.
    """

    plan: StepPlan
    kept: int = 0
    shift: int = 0
    tree: bool = False
    joint: bool = False

    @property
    def key(self) -> str:
        """A short name, unique among needs; that of the plan, and behind a `/` each exception."""
        marks = {"kept": self.kept, "shift": self.shift, "tree": self.tree, "joint": self.joint}
        return "/".join((self.plan.key, *(f"{name}{int(n)}" for name, n in marks.items() if n)))

    @classmethod
    def from_key(cls, key: str) -> Need:
        """The need that has this key.

        Raises:
            PlanError: None has.
        """
        plan, *marks = key.split("/")
        found = {
            mark.rstrip("0123456789"): mark.lstrip("abcdefghijklmnopqrstuvwxyz") for mark in marks
        }
        try:
            values = {name: int(number) for name, number in found.items()}
            return cls(
                StepPlan.from_key(plan),
                kept=values.pop("kept", 0),
                shift=values.pop("shift", 0),
                tree=bool(values.pop("tree", 0)),
                joint=bool(values.pop("joint", 0)),
            )
        except ValueError:
            raise PlanError(f"`{key}` is no key of an evaluation") from None


def _need(
    spec: DenoiserSpec,
    dtype: str,
    sizes: tuple[int, int, int, int, int],
    statistics: str,
    width: int,
    kept: int,
    saliency: bool,
    tree: bool,
    joint: bool,
) -> Need:
    lanes, rows, head_rows, slots, scratch = sizes
    plan = StepPlan(
        batch=lanes,
        rows=rows,
        head_rows=head_rows,
        slots=slots,
        scratch=scratch,
        statistics=statistics,
        mask="limit" if spec.attention == "full" else "row_limit",
        inputs=f"mixture{width}" if width else "tokens",
        saliency=saliency,
        dtype=dtype,
    )
    return Need(plan, kept, spec.logit_shift if saliency else 0, tree and lanes > 1, joint)


def need_of(state: DecodeState, dtype: str, foreseen: Evaluation | None = None) -> Need:
    """What the next evaluation of `state` takes, or one that is foreseen."""
    evaluation = foreseen or state.evaluation()
    lanes = 1 if foreseen else len(state.drafts())
    statistics = state.statistics_of(evaluation)
    sizes = (lanes, len(evaluation.rows), len(evaluation.head), state.length)
    kept = kept_slots(state) if evaluation.kept else 0
    saliency, joint = evaluation.keeps is not None, evaluation.joint
    # Most evaluations of a sequence take what one before took, and a plan takes 10 us to make.
    key = (sizes, statistics, kept, saliency, joint)
    found = state.known_needs.get(key)
    if found is None:
        found = state.known_needs[key] = _need(
            state.spec,
            dtype,
            (*sizes, scratch_of(state)),
            statistics,
            0 if joint else state.config.belief.width,
            kept,
            saliency,
            state.config.verify.tree,
            joint,
        )
    return found


def cover(needs: Sequence[Need], slots: int, scratch: int) -> StepPlan:
    """The plan that is asked for when `needs` are evaluated together.

    Args:
        needs: Of each sequence.
        slots: Of the caches.
        scratch: Slots of theirs beyond.
    """
    plans = [need.plan for need in needs]
    return plans[0].model_copy(
        update={
            "batch": len(needs) * max(plan.batch for plan in plans),
            "rows": max(plan.rows for plan in plans),
            "head_rows": max(plan.head_rows for plan in plans),
            "slots": slots,
            "scratch": scratch,
            "saliency": False,
        }
    )


def as_run(plan: StepPlan, needs: Sequence[Need], kept: int) -> StepPlan:
    """The plan of the program that runs, where `plan` is the one that covers `needs`, fitted.

    Args:
        plan: It.
        needs: Evaluated together.
        kept: Slots of the caches that keep a part of the keys.
    """
    first, lanes = needs[0], max(need.plan.batch for need in needs)
    if first.kept:
        return plan.model_copy(update={"slots": kept, "scratch": 1})
    if first.plan.saliency:
        return plan.model_copy(
            update={"head_rows": plan.head_rows + first.shift, "saliency": True}
        )
    if any(need.tree for need in needs):
        return plan.model_copy(
            update={
                "batch": len(needs),
                "rows": lanes * plan.rows,
                "head_rows": lanes * plan.head_rows,
                "mask": f"{plan.mask}+tree",
            }
        )
    return plan
