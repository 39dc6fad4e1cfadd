"""What the host can say of a sequence's next evaluations before it has seen their results.

Which rows are evaluated next follows, while a block lasts, mostly from how many steps it has had.
So does what most policies give as knobs. What depends on more, on the tokens that commit, is
`UNKNOWN`: a policy that asks for it ends what is foreseen there, and needs to know nothing of
this.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from dllmc.policies.standing import BlockProgress, Standing
from dllmc.runtime.offer import knobs

if TYPE_CHECKING:
    from dllmc.policies.standing import Evaluation
    from dllmc.runtime.counts import Counts
    from dllmc.runtime.state import DecodeState


class Foreseen(NamedTuple):
    """One evaluation of a sequence, if its block lasts until then.

    Attributes:
        evaluation: It.
        draws: Steps of the sequence before it.
        knobs: Of the policies, by axis.
    """

    evaluation: Evaluation
    draws: int
    knobs: dict[str, dict[str, float]]


class UnforeseenError(Exception):
    """Something was asked for that only an evaluation's result says."""


class _Unknown:
    """A value that may be handed on, and not used."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __getattr__(self, name: str) -> NoReturn:
        raise UnforeseenError


def _refuse(*_: object) -> NoReturn:
    raise UnforeseenError


for _name in (
    "bool int float index round abs neg invert len iter contains getitem hash eq ne lt le gt ge "
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv divmod rdivmod mod rmod pow "
    "rpow and rand or ror xor rxor"
).split():
    setattr(_Unknown, f"__{_name}__", _refuse)

UNKNOWN: Final[Any] = _Unknown()


def foresees(state: DecodeState) -> bool:
    """Whether the host may let a device decode `state` for several steps unseen.

    Not where the host has a part in every step: where it follows a constraint, verifies drafts,
    asks another model, filters caches or lays blocks out anew; nor where a block lasts until
    committed tokens stay as they are.
    """
    config = state.config
    verify, schedule = config.verify, config.schedule
    verifies = verify.lanes > 1 or verify.auxiliary is not None or verify.passes > 0
    lays_out = schedule.adapts or schedule.pipelined or schedule.slides
    carried = getattr(config.cache, "window_first", "self") == "carried"
    revised = config.revise.kind != "none"
    return not (verifies or lays_out or carried or revised or state.automaton is not None)


def foresee(state: DecodeState, most: int) -> list[Foreseen]:
    """The next evaluation of `state`, and up to `most` in all that follow it in its block."""
    found = [Foreseen(state.evaluation(), state.draws, knobs(state.config, state.progress))]
    first = state.evaluation()
    special = first.joint or first.kept or first.keeps is not None
    if special or most == 1 or not foresees(state):
        return found
    counts, first_masked = state.counts, state.standing.first_masked
    for _ in range(most - 1):
        evaluation = found[-1].evaluation
        counts = counts.after(evaluation, state.current.outer[0])
        if first_masked is True:
            single = len(evaluation.head) == 1 or evaluation.first_only
            leads = single and evaluation.head[0] == state.current.whole[0]
            # One row that is offered alone commits; of several nobody knows.
            first_masked = False if leads else UNKNOWN if evaluation.head else True
        try:
            standing = _standing(state, counts, first_masked)
            evaluation = state.config.cache.evaluate(standing, state.spec)
            given = knobs(state.config, _progress(state, counts))
        except UnforeseenError:
            break
        if evaluation.kept or evaluation.keeps is not None:
            break
        found.append(Foreseen(evaluation, counts.draws, given))
    return found


def _standing(state: DecodeState, counts: Counts, first_masked: bool) -> Standing:
    return Standing(
        block=state.current.span,
        whole=state.current.whole,
        outer=state.current.outer,
        reach=state.reach,
        step=counts.step,
        outer_steps=counts.outer_step,
        committed=UNKNOWN,
        first_masked=first_masked,
        exact=counts.exact,
        since_refresh=counts.since_refresh,
        prompt=state.response_start,
        masked=UNKNOWN,
        was_masked=UNKNOWN,
        evaluations=counts.draws,
        coming=UNKNOWN,
    )


def _progress(state: DecodeState, counts: Counts) -> BlockProgress:
    return dataclasses.replace(
        state.progress,
        step=counts.step + state.passes,
        remaining=UNKNOWN,
        evaluations=counts.draws,
    )
