from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
from golden.published import SYSTEMS, Case, cases, model, of_way, ways
from lockstep.compare import Request, finish

from dllmc.compiler.compiled import compile_model
from dllmc.runtime.engine import Engine

WAYS = [(system, way) for system in SYSTEMS for way in ways(system)]


@functools.cache
def engine_of(system: str, number: int, keys: tuple[tuple[str, Any], ...]) -> Engine:
    loaded = model(system, number, keys)
    engine: Engine = compile_model(loaded, engine_of=Engine, backend="eager").engine()
    return engine


def check(case: Case) -> None:
    output = engine_of(case.system, case.model, case.keys).generate(
        list(case.prompt), config=case.decoding(), max_new_tokens=case.max_new_tokens
    )
    assert output.tokens == case.tokens, case
    assert case.agrees_on(output.nfe), (output.nfe, case)
    if case.rows is not None:
        assert [len(step.rows) for step in output.trace] == case.rows, case


def model_of(case: Case) -> tuple[int, tuple[tuple[str, Any], ...]]:
    return case.model, case.keys


# Of each kind of model, and what only few systems do: edit, decode blocks ahead, filter caches.
FEW = ("dream", "llada_moe", "sdar", "llada21", "fast_dllm_v2", "d2f", "sparse_llada")


@pytest.mark.parametrize(
    "system",
    [pytest.param(s, marks=[] if s in FEW else [pytest.mark.slow]) for s in SYSTEMS],
)
def test_the_engine_decodes_as_published(system: str) -> None:
    # Of one model, as each takes seconds to compile; the others below.
    told = [case for case in cases(system) if case.config is not None]
    for case in [case for case in told if model_of(case) == model_of(told[0])][:6]:
        check(case)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "way"), WAYS)
def test_the_engine_decodes_every_case_as_published(system: str, way: str) -> None:
    # Those that end at a token have a model each; of others every second model decodes in batches.
    ends = way.endswith("eos")
    for case in of_way(system, way)[:: 4 if ends else 1]:
        if ends or case.model % 2 == 0:
            check(case)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_batches_of_unequal_requests_decode_as_published(system: str) -> None:
    told = [case for way in ways(system) if "eos" not in way for case in of_way(system, way)]
    told = [case for case in told if case.model % 2]
    for (number, keys), group in itertools.groupby(sorted(told, key=model_of), key=model_of):
        own = list(group)
        for first in range(0, len(own), 8):
            batch = own[first : first + 8]
            requests = [Request(list(c.prompt), c.decoding(), c.max_new_tokens) for c in batch]
            tokens, nfe = finish(engine_of(system, number, keys), requests)
            assert tokens == [case.tokens for case in batch]
            assert all(case.agrees_on(n) for case, n in zip(batch, nfe, strict=True))
