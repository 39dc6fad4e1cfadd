from __future__ import annotations

import functools
from typing import Any

import pytest
from golden.assisted import SYSTEM, Assisted, cases
from golden.published import model
from lockstep.compare import Request, finish

from dllmc.compiler.compiled import CompiledModel, compile_model
from dllmc.runtime.engine import Engine


@functools.cache
def compiled(number: int, keys: tuple[tuple[str, Any], ...] = ()) -> CompiledModel:
    return compile_model(model(SYSTEM, number, keys), engine_of=Engine, backend="eager")


@functools.cache
def engine_of(number: int, keys: tuple[tuple[str, Any], ...], auxiliary: int | None) -> Engine:
    helper = None if auxiliary is None else compiled(auxiliary)
    engine: Engine = compiled(number, keys).engine(auxiliary=helper)
    return engine


def check(asked: Assisted) -> None:
    case = asked.case
    output = engine_of(case.model, case.keys, asked.auxiliary).generate(
        list(case.prompt), config=case.decoding(), max_new_tokens=case.max_new_tokens
    )
    assert output.tokens == case.tokens, case
    assert output.nfe == case.nfe, case
    assert output.auxiliary_nfe == (0 if asked.auxiliary is None else case.nfe), case
    assert [len(step.rows) for step in output.trace] == case.rows, case
    assert [len(step.positions) for step in output.trace] == asked.accepted, case


def of_one_model() -> list[Assisted]:
    return [asked for asked in cases() if asked.case.model == 2 and asked.auxiliary == 6]


def test_the_engine_decodes_as_published() -> None:
    for asked in of_one_model()[::4]:
        check(asked)


@pytest.mark.slow
def test_the_engine_decodes_every_case_as_published() -> None:
    for asked in cases():
        check(asked)


def test_a_batch_of_unequal_requests_decodes_as_published() -> None:
    told = [asked.case for asked in of_one_model()[:6]]
    requests = [Request(list(c.prompt), c.decoding(), c.max_new_tokens) for c in told]
    tokens, nfe = finish(engine_of(2, (), 6), requests)
    assert tokens == [case.tokens for case in told]
    assert nfe == [case.nfe for case in told]
