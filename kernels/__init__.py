"""Canonical operators: one file per operator with its reference and its implementations.

Importing this package registers every operator found in it: a new kernel is a new file.
"""

from __future__ import annotations

import importlib
import pkgutil

from dllmc.kernels._choice import default_implementations
from dllmc.kernels._library import (
    bodies,
    canonical,
    canonical_names,
    implementation,
    implementations,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "bodies",
    "canonical",
    "canonical_names",
    "default_implementations",
    "implementation",
    "implementations",
]
