"""Policies by axis and kind, found by scanning the axis folders: a new policy is a new file."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

from dllmc import policies
from dllmc.policies.axes import AXES
from dllmc.spec import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.policies._base import Policy


@functools.cache
def kinds(axis: str) -> Mapping[str, type[Policy]]:
    """The members of `axis` by kind."""
    folder = importlib.import_module(f"{policies.__name__}.{axis}")
    found: dict[str, type[Policy]] = {}
    for module in pkgutil.iter_modules(folder.__path__):
        name = f"{folder.__name__}.{module.name}"
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, AXES[axis]):
                default = value.model_fields["kind"].default
                if value.__module__ == name and isinstance(default, str):
                    if default in found:
                        raise TypeError(f"`{default}` is defined twice on axis `{axis}`")
                    found[default] = value
    return found


def parse(axis: str, value: object) -> Policy:
    """A member of `axis` from itself, or from a mapping with its `kind`.

    Raises:
        ConfigError: The value is neither, or its kind is unknown.
    """
    if isinstance(value, AXES[axis]):
        return value
    if not isinstance(value, dict):
        raise ConfigError("must be a policy or a mapping with a `kind`")
    known = kinds(axis)
    if "kind" not in value:
        raise ConfigError(f"`kind` is missing; known: {', '.join(sorted(known))}")
    kind = value["kind"]
    if not isinstance(kind, str) or kind not in known:
        hint = nearest(str(kind), known)
        raise ConfigError(f"`kind`={kind!r} is unknown; {hint}")
    return known[kind](**value)
