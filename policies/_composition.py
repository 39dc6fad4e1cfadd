"""Which policies do not go together, by what they declare of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dllmc.policies._base import Policy


def conflict(one: Policy, other: Policy) -> str | None:
    """Why two policies do not go together, or None if they do."""
    for policy, against in ((one, other), (other, one)):
        for name in sorted(against.properties & policy.exclusions.keys()):
            return policy.exclusions[name]
    return None
