"""What two records say differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dllmc.tuning_db.record import Record


class Difference(NamedTuple):
    """A field of which two records differ; None is a field that a record does not have."""

    name: str
    one: Any
    other: Any


def difference(one: Record, other: Record) -> list[Difference]:
    """The fields in which two records differ, by their names with dots."""
    left, right = dict(_flat(one.to_json())), dict(_flat(other.to_json()))
    names = [*left, *(name for name in right if name not in left)]
    return [
        Difference(name, left.get(name), right.get(name))
        for name in names
        if left.get(name) != right.get(name)
    ]


def _flat(value: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{before}{name}.")
        else:
            yield f"{before}{name}", item
