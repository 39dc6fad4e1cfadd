"""Passes by name, found by scanning this folder, in the order in which they run."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from graphlib import TopologicalSorter

from dllmc.passes._base import GraphPass, Stage

_PACKAGE = "dllmc.passes"


@functools.cache
def pass_types() -> dict[str, type[GraphPass]]:
    """Every pass by name."""
    found: dict[str, type[GraphPass]] = {}
    for module in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__):
        if module.name.startswith("_"):
            continue
        for value in vars(importlib.import_module(f"{_PACKAGE}.{module.name}")).values():
            is_pass = isinstance(value, type) and issubclass(value, GraphPass)
            if not is_pass or value is GraphPass:
                continue
            if found.setdefault(value.name, value) is not value:
                raise TypeError(f"pass `{value.name}` is defined twice")
    return found


@functools.cache
def ordered(*stages: Stage) -> tuple[type[GraphPass], ...]:
    """The passes of `stages` in running order: by stage, then `after`, then name."""
    result: list[type[GraphPass]] = []
    for stage in sorted(stages):
        members = {n: p for n, p in sorted(pass_types().items()) if p.stage is stage}
        sorter = TopologicalSorter({name: kind.after for name, kind in members.items()})
        result += [members[name] for name in sorter.static_order()]
    return tuple(result)
