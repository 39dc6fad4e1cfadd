from __future__ import annotations

import functools

import pytest
from golden.fast_dllm import load
from lockstep.compare import Request, finish

from dllmc.compiler.compiled import compile_model
from dllmc.models import LoadedModel
from dllmc.runtime.engine import Engine


@functools.cache
def engine_of(number: int) -> Engine:
    model = load()[0][number]
    loaded = LoadedModel(model.module, model.spec, None, f"golden-{number}", None, {})
    engine: Engine = compile_model(loaded, engine_of=Engine, backend="eager").engine()
    return engine


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_the_engine_decodes_as_published(cache: str) -> None:
    # Alone, every twelfth; all of them below.
    for case in [case for case in load()[1] if case.config.cache.kind == cache][::12]:
        output = engine_of(case.model).generate(
            case.prompt, config=case.config, max_new_tokens=case.max_new_tokens
        )
        assert (output.tokens, output.nfe) == (case.tokens, case.nfe), case


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_of_unequal_requests_decode_as_published(every: int) -> None:
    cases = load()[1]
    for number in range(len(load()[0])):
        own = [case for case in cases if case.model == number]
        for first in range(0, len(own), 8 * every):
            batch = own[first : first + 8]
            requests = [Request(case.prompt, case.config, case.max_new_tokens) for case in batch]
            tokens, nfe = finish(engine_of(number), requests)
            assert tokens == [case.tokens for case in batch]
            assert nfe == [case.nfe for case in batch]
