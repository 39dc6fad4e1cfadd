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


# Each takes seconds to compile.
MODELS = [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 4))]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("model", MODELS)
def test_the_engine_decodes_as_published(model: int, cache: str) -> None:
    # Alone, every twelfth; all of them below.
    own = [case for case in load()[1] if case.model == model]
    for case in [case for case in own if case.config.cache.kind == cache][::12]:
        output = engine_of(case.model).generate(
            case.prompt, config=case.config, max_new_tokens=case.max_new_tokens
        )
        assert (output.tokens, output.nfe) == (case.tokens, case.nfe), case


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_batches_of_unequal_requests_decode_as_published(model: int, every: int) -> None:
    own = [case for case in load()[1] if case.model == model]
    for first in range(0, len(own), 8 * every):
        batch = own[first : first + 8]
        requests = [Request(case.prompt, case.config, case.max_new_tokens) for case in batch]
        tokens, nfe = finish(engine_of(model), requests)
        assert tokens == [case.tokens for case in batch]
        assert nfe == [case.nfe for case in batch]


def test_every_model_is_decoded() -> None:
    assert {case.model for case in load()[1]} == set(range(4))
