"""Denoisers by architecture, found by a scan of this package: a new model is one new file."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast

import dllmc.models
from dllmc.spec import CheckpointError, UnknownArchitectureError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from torch import nn

    from dllmc.spec import DenoiserSpec


class Denoiser(Protocol):
    """What a module of this package gives for the names in its `ARCHITECTURES`."""

    @classmethod
    def from_config(cls, keys: Mapping[str, object]) -> tuple[nn.Module, DenoiserSpec]:
        """Build the module and its spec from the keys of `config.json`.

        A checkpoint's names, as published, stand beside them under `names`.
        """
        ...


def architectures() -> tuple[str, ...]:
    """Names that `config.json` may have in `architectures`, in alphabetical order."""
    return tuple(_classes())


def denoiser_for(keys: Mapping[str, object]) -> type[Denoiser]:
    """The class that `config.json` asks for.

    Args:
        keys: The keys of `config.json`.

    Raises:
        CheckpointError: `architectures` is not a list of names.
        UnknownArchitectureError: There is no denoiser for any of them.
    """
    names = keys.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise CheckpointError(
            f"`architectures` is {names!r}; give a list of one of {', '.join(_classes())}"
        )
    for name in names:
        if name in _classes():
            return _classes()[name]
    raise UnknownArchitectureError(
        f"architecture `{names[0]}` has no denoiser; {nearest(names[0], _classes())}"
    )


@cache
def _classes() -> dict[str, type[Denoiser]]:
    found: dict[str, type[Denoiser]] = {}
    for entry in pkgutil.iter_modules(dllmc.models.__path__):
        if entry.ispkg or entry.name.startswith("_"):
            continue
        module = importlib.import_module(f"{dllmc.models.__name__}.{entry.name}")
        for name in getattr(module, "ARCHITECTURES", ()):
            found[name] = _class_of(module)
    return dict(sorted(found.items()))


def _class_of(module: ModuleType) -> type[Denoiser]:
    own = (
        value
        for value in vars(module).values()
        if inspect.isclass(value) and value.__module__ == module.__name__
    )
    (denoiser,) = (value for value in own if hasattr(value, "from_config"))
    return cast("type[Denoiser]", denoiser)
