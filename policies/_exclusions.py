"""Pairs of kinds that do not go together, by what all their configurations declare."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from dllmc.policies._composition import conflict
from dllmc.policies._faces import faces, phrase
from dllmc.policies._registry import kinds
from dllmc.policies.axes import AXES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from dllmc.policies._base import Policy


class Exclusion(NamedTuple):
    """Two kinds that do not go together.

    Attributes:
        by: The one that says so, as `axis.kind`.
        of: The other.
        reason: Why.
        condition: When, or nothing for always.
    """

    by: str
    of: str
    reason: str
    condition: str


def exclusions() -> list[Exclusion]:
    """Every pair of kinds on different axes that does not go together, or not always."""
    found = (exclusion(one, other) for one, other in pairs())
    return [each for each in found if each is not None]


def exclusion(one: type[Policy], other: type[Policy]) -> Exclusion | None:
    """Whether two kinds go together; None if they always do."""
    sides = faces(one), faces(other)
    clashes = {
        (i, j): reason
        for (i, a), (j, b) in itertools.product(*map(enumerate, sides))
        if (reason := conflict(a.policy, b.policy)) is not None
    }
    if not clashes:
        return None
    conditions = [
        condition(kind, {pair[side] for pair in clashes}) for side, kind in enumerate((one, other))
    ]
    first = min(clashes)
    by, of = (side[index].policy for side, index in zip(sides, first, strict=True))
    if not of.properties & by.exclusions.keys():
        by, of = of, by
    when = " and ".join(sorted(filter(None, conditions))).replace(" and unless", ", unless")
    return Exclusion(f"{by.axis}.{by.kind}", f"{of.axis}.{of.kind}", clashes[first], when)


def condition(kind: type[Policy], clashing: Collection[int]) -> str:
    """When `kind` has one of the faces with these numbers; nothing if it always has."""
    known = faces(kind)
    if len(clashing) == len(known):
        return ""
    usually = 0 in clashing
    told = [face for index, face in enumerate(known) if (index in clashing) != usually]
    return ("unless " if usually else "if ") + phrase(kind, told)


def every_kind() -> Mapping[str, type[Policy]]:
    """Every kind by its name `axis.kind`, axis by axis."""
    return {f"{axis}.{kind}": kinds(axis)[kind] for axis in AXES for kind in sorted(kinds(axis))}


def pairs() -> Iterator[tuple[type[Policy], type[Policy]]]:
    """Every two kinds that stand on different axes."""
    for one, other in itertools.combinations(every_kind().values(), 2):
        if one.axis != other.axis:
            yield one, other
