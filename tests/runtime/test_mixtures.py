"""Mixtures of experts from capture to tokens."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest
from graphs.passing import operators

import dllmc
from dllmc.policies.config import DecodingConfig

if TYPE_CHECKING:
    from dllmc.compiler.compiled import CompiledModel

ROUTED = {"llada-moe-tiny": 2, "llada2-tiny": 1, "sdar-moe-tiny": 2}
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14, 5, 21, 40, 11]]


@functools.cache
def compiled(shape: str) -> CompiledModel:
    return dllmc.compile(dllmc.load_model(f"random:{shape}"))


def config_of(shape: str, threshold: float) -> DecodingConfig:
    cache = "dual" if shape.startswith("llada-moe") else "block_causal"
    return DecodingConfig(
        schedule={"kind": "blocks", "block_length": 8},
        commit={"kind": "threshold", "threshold": threshold},
        cache={"kind": cache},
        stop={"kind": "length"},
    )


def decodes_as_the_reference(shape: str, backend: str) -> None:
    model, engine = dllmc.load_model(f"random:{shape}"), compiled(shape).engine(backend=backend)
    for threshold in (0.9, 0.5):
        config = config_of(shape, threshold)
        found = engine.generate(PROMPTS, max_new_tokens=16, config=config)
        for prompt, tokens, nfe in zip(PROMPTS, found.tokens, found.nfe, strict=True):
            expected = dllmc.reference.generate(model, prompt, config, max_new_tokens=16)
            assert (tokens, nfe) == (expected.tokens, expected.nfe)


@pytest.mark.parametrize("shape", ROUTED)
def test_a_step_holds_one_call_per_routed_layer(shape: str) -> None:
    graph = compiled(shape).engine(backend="eager").package.graphs["greedy"]
    assert operators(graph)["dllmc.experts.sorted"] == ROUTED[shape]


@pytest.mark.parametrize("shape", ROUTED)
def test_a_mixture_decodes_as_the_reference(shape: str) -> None:
    decodes_as_the_reference(shape, "eager")


@pytest.mark.slow
@pytest.mark.parametrize("shape", ROUTED)
def test_every_pass_over_a_mixture_is_verified(shape: str) -> None:
    dllmc.compile(dllmc.load_model(f"random:{shape}"), verify=True)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ROUTED)
def test_a_mixture_decodes_as_the_reference_through_inductor(shape: str) -> None:
    decodes_as_the_reference(shape, "inductor")
