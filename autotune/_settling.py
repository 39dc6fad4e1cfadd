"""The nearest valid configuration to one that was drawn axis by axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dllmc.policies._composition import conflict
from dllmc.policies._registry import kinds as kinds_of
from dllmc.policies.axes import Commit, Refreshing, Schedule
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dllmc.policies._base import Policy

DECISIVE: Final = ("commit", "cache", "schedule", "verify", "score", "belief", "revise")
"""Of two kinds that do not go together the one further left stays: how many evaluations there are
and what one costs decide the speed, and the rest is searched with most of these too."""


def together(options: Sequence[Callable[[], Iterator[Policy]]]) -> list[Policy] | None:
    """Policies that go together, one of each axis; of two that do not the later gives way.

    Args:
        options: What an axis may be, nearest first, for each axis.

    Returns:
        None where nothing goes together.
    """
    return _extended([], options)


def _extended(
    kept: list[Policy], options: Sequence[Callable[[], Iterator[Policy]]]
) -> list[Policy] | None:
    if not options:
        return kept
    for policy in options[0]():
        if all(conflict(policy, other) is None for other in kept):
            found = _extended([*kept, policy], options[1:])
            if found is not None:
                return found
    return None


def largest_count(policy: type[Policy], name: str, length: int) -> int | None:
    """The count that None stands for: one token in each of `length` steps."""
    knob = policy.knobs().get(name)
    if knob is None or knob.high is None or policy.model_fields[name].default is not None:
        return None
    return int(max(knob.low or 0, min(knob.high, length)))


def trimmed(
    chosen: Mapping[str, Mapping[str, Any]], counts: Sequence[str], length: int
) -> dict[str, dict[str, Any]]:
    """`chosen` with counts that its schedule allows, and without values that have no effect.

    Args:
        chosen: Kind and values by axis.
        counts: Knobs of its commit policy that are whole numbers.
        length: Response length in tokens.
    """
    trim = {axis: dict(values) for axis, values in chosen.items()}
    schedule, commit = build("schedule", chosen["schedule"]), trim["commit"]
    assert isinstance(schedule, Schedule)
    blocks = schedule.blocks(length)
    for name in counts:
        if commit.get(name) is None:
            continue
        if commit[name] == largest_count(kinds_of("commit")[commit["kind"]], name, length):
            commit[name] = None
            continue
        commit[name] = _nearest_valid(commit, name, length, len(blocks))
        if _commits_alike(commit, {**commit, name: None}, blocks):
            commit[name] = None
    moves = schedule.adapts or schedule.slides or schedule.pipelined
    longest = length if moves else max(end - start for start, end in blocks)
    cache = build("cache", chosen["cache"])
    if isinstance(cache, Refreshing) and not any(
        cache.refreshes(1, committed) for committed in range(1, longest)
    ):
        trim["cache"].pop("refresh_every", None)
    return trim


def _nearest_valid(commit: Mapping[str, Any], name: str, length: int, blocks: int) -> int:
    wanted = int(commit[name])
    for value in sorted(range(1, length + 1), key=lambda v: (abs(v - wanted), v)):
        policy = build("commit", {**commit, name: value})
        assert isinstance(policy, Commit)
        try:
            policy.check(length, blocks)
        except ConfigError:
            continue
        return value
    return wanted


def _commits_alike(
    one: Mapping[str, Any], other: Mapping[str, Any], blocks: Sequence[tuple[int, int]]
) -> bool:
    try:
        policies = [build("commit", values) for values in (one, other)]
    except ConfigError:
        return False
    progress = [
        BlockProgress(step, end - start, len(blocks), end - start, end - start)
        for start, end in blocks
        for step in range(end - start)
    ]
    first, second = ([p.values(at) for at in progress] for p in policies)
    return bool(first == second)


def build(axis: str, values: Mapping[str, Any]) -> Policy:
    """A policy from its kind and values."""
    rest = {name: value for name, value in values.items() if name != "kind"}
    return kinds_of(axis)[values["kind"]](**rest)
