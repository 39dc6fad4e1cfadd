"""What a kind declares of itself, and which of its fields that depends on."""

from __future__ import annotations

import types
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic.fields import FieldInfo

    from dllmc.policies._base import Knob, Policy

# What stands for a field without a default: only what is declared is read of such a policy.
_FILLERS: Mapping[Any, Any] = {str: "", int: 1, float: 1.0}


@dataclass(frozen=True)
class Face:
    """What a kind declares with some values of its fields.

    Attributes:
        policy: One that has them.
        values: What was tried by field; empty for the defaults, the first face of every kind.
    """

    policy: Policy
    values: Mapping[str, tuple[Any, ...]]


def usual(kind: type[Policy]) -> Policy:
    """A policy from its kind alone; fields that must be given are filled in unchecked."""
    try:
        return kind()  # type: ignore[call-arg]
    except ConfigError:
        required = (n for n, field in kind.model_fields.items() if field.is_required())
        fillers: dict[str, Any] = {
            n: _FILLERS.get(kind.model_fields[n].annotation) for n in required
        }
        return kind.model_construct(**fillers)


def faces(kind: type[Policy]) -> list[Face]:
    """The different faces of a kind: as it is by default, then those that one field changes."""
    default = usual(kind)
    shown = {_declared(default): default}
    values: dict[object, dict[str, tuple[Any, ...]]] = defaultdict(dict)
    for name, value in alternatives(default):
        policy = default.model_copy(update={name: value})
        declared = _declared(policy)
        shown.setdefault(declared, policy)
        values[declared][name] = (*values[declared].get(name, ()), value)
    return [Face(default, {}), *(Face(shown[each], values[each]) for each in [*shown][1:])]


def alternatives(policy: Policy) -> Iterator[tuple[str, Any]]:
    """Values to try, one field at a time: what the field allows, or the ends of its range."""
    for name, field in type(policy).model_fields.items():
        values = _allowed(field, policy.knobs().get(name))
        yield from ((name, value) for value in values if value != getattr(policy, name))


def phrase(kind: type[Policy], some: Sequence[Face]) -> str:
    """In words what fields must be for a kind to have one of `some` faces but the default's."""
    default, words = usual(kind), []
    for name in dict.fromkeys(name for face in some for name in face.values):
        tried = [value for field, value in alternatives(default) if field == name]
        found = [value for face in some for value in face.values.get(name, ())]
        usually = getattr(default, name)
        if len(found) == len(tried) and usually is None:
            said = "is given"
        elif len(found) == len(tried) > 1:
            said = f"is not {usually!r}"
        else:
            said = "is " + " or ".join(map(repr, found))
        words.append(f"`{default.axis}.{name}` {said}")
    return " or ".join(words)


def _declared(policy: Policy) -> object:
    return policy.properties, frozenset(policy.exclusions.items())


def _allowed(field: FieldInfo, knob: Knob | None) -> tuple[Any, ...]:
    optional = get_origin(field.annotation) in (Union, types.UnionType)
    parts = get_args(field.annotation) if optional else (field.annotation,)
    none = (None,) if types.NoneType in parts else ()
    if knob is not None and knob.choices:
        return knob.choices
    if knob is not None:
        ends = (knob.low, knob.high)
        return *none, *(int(end) if int in parts else end for end in ends if end is not None)
    literals = (part for part in parts if get_origin(part) is Literal)
    return *none, *(value for part in literals for value in get_args(part))
