"""dKV-Cache-Greedy, whose published loop follows an order that was drawn beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from golden.case import config_of
from golden.published import model, stored
from lockstep.compare import Request, finish

from dllmc import reference
from dllmc.compiler.compiled import compile_model
from dllmc.policies.config import DecodingConfig
from dllmc.policies.score import order
from dllmc.runtime.engine import Engine

if TYPE_CHECKING:
    from torch import Tensor

CASES = [told for told in stored("dkv_llada")["cases"] if told["loop"] == "greedy"]
MODELS = sorted({told["model"] for told in CASES})


def ranks(told: dict[str, Any], length: int) -> list[float]:
    """The place of every position of a canvas in the order, as a number in [0, 1)."""
    found, first = [0.0] * length, len(told["prompt"])
    for place, position in enumerate(told["order"]):
        found[first + position] = place / len(told["order"])
    return found


@pytest.fixture
def as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration's seed is the number of the recorded order that it gives."""
    length = 1 + max(len(told["prompt"]) + told["gen_length"] for told in CASES)
    drawn = torch.tensor([ranks(told, length) for told in CASES])

    def uniform(counters: Tensor, positions: Tensor) -> Tensor:
        return drawn[counters[:, :1], positions]

    def uniform_of(counters: tuple[int, int, int], position: int) -> float:
        return drawn[counters[0], position].item()

    monkeypatch.setattr(order, "uniform", uniform)
    monkeypatch.setattr(order, "uniform_of", uniform_of)


def config(number: int) -> DecodingConfig:
    told = CASES[number]
    every, window = told["cache_reloading_step"], told["window_size"]
    cache = {"kind": "dkv_greedy", "refresh_every": every, "window": window}
    commit = {"kind": "quota", "steps": told["steps"]}
    fields = config_of(told["block_length"], commit, cache, score={"kind": "order"})
    return DecodingConfig(**fields, seed=number)


def of_model(number: int) -> list[int]:
    return [index for index, told in enumerate(CASES) if told["model"] == number]


def engine_of(number: int) -> Engine:
    engine: Engine = compile_model(
        model("dkv_llada", number), engine_of=Engine, backend="eager"
    ).engine()
    return engine


@pytest.mark.usefixtures("as_recorded")
@pytest.mark.parametrize(
    "number", [MODELS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in MODELS[1:])]
)
def test_an_order_that_was_drawn_decodes_as_published(number: int) -> None:
    engine, loaded = engine_of(number), model("dkv_llada", number)
    for index in of_model(number):
        told = CASES[index]
        asked = {"config": config(index), "max_new_tokens": told["gen_length"]}
        found = engine.generate(told["prompt"], **asked)
        assert (found.tokens, found.nfe) == (told["tokens"], told["nfe"])
        assert [len(step.rows) for step in found.trace] == told["rows"]
        plain = reference.generate(loaded, told["prompt"], **asked)
        assert (plain.tokens, plain.nfe) == (told["tokens"], told["nfe"])
        assert [len(step.evaluated) for step in plain.trace] == told["rows"]


@pytest.mark.slow
@pytest.mark.usefixtures("as_recorded")
@pytest.mark.parametrize("number", MODELS)
def test_batches_of_unequal_requests_decode_as_published(number: int) -> None:
    own = of_model(number)
    requests = [
        Request(CASES[index]["prompt"], config(index), CASES[index]["gen_length"]) for index in own
    ]
    tokens, nfe = finish(engine_of(number), requests)
    assert tokens == [CASES[index]["tokens"] for index in own]
    assert nfe == [CASES[index]["nfe"] for index in own]


def test_every_recorded_order_is_there() -> None:
    assert len(CASES) == 27
    assert sum(map(len, map(of_model, MODELS))) == 27
