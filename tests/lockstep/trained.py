"""The model that comes along; it takes seconds to compile."""

from __future__ import annotations

import functools

from dllmc.compiler.compiled import CompiledModel, compile_model
from dllmc.models import LoadedModel, load_model
from dllmc.runtime.engine import Engine


@functools.cache
def embedded() -> LoadedModel:
    return load_model("embedded")


@functools.cache
def _compiled() -> CompiledModel:
    return compile_model(embedded(), engine_of=Engine)


@functools.cache
def trained_engine(backend: str = "eager") -> Engine:
    engine: Engine = _compiled().engine(backend=backend)
    return engine
