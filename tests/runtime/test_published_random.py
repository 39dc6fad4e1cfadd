"""LLaDA's random remasking, with the numbers that its published loop drew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from golden.case import config_of
from golden.published import model, stored
from golden.uniforms import draw_uniforms

from dllmc import reference
from dllmc.compiler.compiled import compile_model
from dllmc.policies.config import DecodingConfig
from dllmc.policies.score import random
from dllmc.runtime.engine import Engine

if TYPE_CHECKING:
    from torch import Tensor

CASES = stored("llada_random")["cases"]


def draw_as_recorded(monkeypatch: pytest.MonkeyPatch, told: dict[str, Any]) -> None:
    """The largest number commits first there, the least doubt here. Padding draws anything."""
    length = len(told["prompt"]) + told["gen_length"]
    drawn = 1 - draw_uniforms(told["uniform_seed"], told["steps"], length)
    drawn = torch.nn.functional.pad(drawn, (0, 1))

    def uniform(counters: Tensor, positions: Tensor) -> Tensor:
        return drawn[counters[:, 2:], positions]

    def uniform_of(counters: tuple[int, int, int], position: int) -> float:
        return drawn[counters[2], position].item()

    monkeypatch.setattr(random, "uniform", uniform)
    monkeypatch.setattr(random, "uniform_of", uniform_of)


def config(told: dict[str, Any]) -> DecodingConfig:
    commit = {"kind": "quota", "steps": told["steps"]}
    return DecodingConfig(**config_of(told["block_length"], commit, score={"kind": "random"}))


@pytest.mark.parametrize(
    "number", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in range(3))]
)
def test_positions_that_are_drawn_commit_as_published(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model("llada_random", number)
    engine: Engine = compile_model(loaded, engine_of=Engine, backend="eager").engine()
    own = [told for told in CASES if told["model"] == number]
    assert len(own) >= 6
    for told in own:
        draw_as_recorded(monkeypatch, told)
        asked = {"config": config(told), "max_new_tokens": told["gen_length"]}
        found = engine.generate(told["prompt"], **asked)
        assert (found.tokens, found.nfe) == (told["tokens"], told["nfe"])
        plain = reference.generate(loaded, told["prompt"], **asked)
        assert (plain.tokens, plain.nfe) == (told["tokens"], told["nfe"])
