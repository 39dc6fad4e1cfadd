"""Joint samplers in the engine, beside the reference."""

from __future__ import annotations

import random
from typing import Any

import pytest
from joint.layers import layer_file
from lockstep.compare import Request, Tally, run
from lockstep.drawn import SHAPES, VOCAB, Shape, config_for, engine_of, model_of

from dllmc.policies.config import DecodingConfig


def verify(shape: Shape, tokens: int) -> dict[str, Any]:
    width = dict(shape.keys).get("d_model", 32)
    return {"kind": "joint_sampler", "path": layer_file(width), "tokens": tokens}


def drawn(rng: random.Random, shape: Shape) -> list[Request]:
    """Up to three prompts, each with any policies that go together with a joint sampler."""
    spec, found = model_of(shape).spec, []
    for stream in range(rng.randint(1, 3)):
        length = rng.randint(1, 24)
        prompt = [rng.randint(0, VOCAB - 2) for _ in range(rng.randint(1, 9))]
        config = config_for(rng, spec, length, verify=verify(shape, rng.randint(1, 6)))
        found.append(Request(prompt, config, length, stream))
    return found


FEW = SHAPES[0], SHAPES[6]
OTHERS = [pytest.param(each, marks=pytest.mark.slow) for each in SHAPES if each not in FEW]


@pytest.mark.parametrize("shape", [*FEW, *OTHERS])
def test_every_decision_is_that_of_the_reference(shape: Shape) -> None:
    model = model_of(shape)
    tally = run(engine_of(shape), model.module, model.spec, drawn(random.Random(1), shape))
    tally.check()


@pytest.mark.slow
def test_many_configurations_decide_as_the_reference_does() -> None:
    rng, total = random.Random(2), Tally()
    for _ in range(30):
        shape = rng.choice(SHAPES)
        model = model_of(shape)
        total.add(run(engine_of(shape), model.module, model.spec, drawn(rng, shape)))
    total.check()
    assert total.decisions > 3000


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_compiled_passes_decide_as_the_reference_does(temperature: float) -> None:
    shape = SHAPES[1]
    config = DecodingConfig(
        schedule={"kind": "blocks", "block_length": 8},
        commit={"kind": "quota", "steps": 24},
        temperature=temperature,
        verify=verify(shape, 3),
    )
    prompts = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
    requests = [Request(prompt, config, 24, stream) for stream, prompt in enumerate(prompts)]
    engine, model = engine_of(shape, "inductor"), model_of(shape)
    for some in (requests, requests[:1]):
        run(engine, model.module, model.spec, some).check()
