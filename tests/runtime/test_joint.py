"""Joint samplers in the engine, beside the reference."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
from joint.layers import drawn_layer, layer_file, save_layer
from lockstep.compare import Request, Tally, run
from lockstep.drawn import SHAPES, VOCAB, Shape, config_for, engine_of, model_of

from dllmc.policies.config import DecodingConfig
from dllmc.runtime.state import DecodeState
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def verify(shape: Shape, tokens: int) -> dict[str, Any]:
    width = dict(shape.keys).get("d_model", 32)
    return {"kind": "joint_sampler", "path": layer_file(width), "tokens": tokens}


def drawn(rng: random.Random, shape: Shape) -> list[Request]:
    """Up to three prompts, each with any policies that go together with a joint sampler."""
    spec, count, found = model_of(shape).spec, rng.randint(1, 3), list[Request]()
    while len(found) < count:
        length = rng.randint(1, 24)
        prompt = [rng.randint(0, VOCAB - 2) for _ in range(rng.randint(1, 9))]
        config = config_for(rng, spec, length, verify=verify(shape, rng.randint(1, 6)))
        # Where blocks are cut from the canvas, their number depends on the prompt too.
        with contextlib.suppress(ConfigError):
            DecodeState(spec, prompt, config, length, len(found))
            found.append(Request(prompt, config, length, len(found)))
    return found


def compared(seed: int, cases: int) -> Tally:
    rng, total = random.Random(seed), Tally()
    for _ in range(cases):
        shape = rng.choice(SHAPES)
        model = model_of(shape)
        total.add(run(engine_of(shape), model.module, model.spec, drawn(rng, shape)))
    return total


def test_every_decision_is_that_of_the_reference() -> None:
    total = compared(seed=1, cases=5)
    total.check()
    assert total.decisions > 400


def test_a_layer_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    # One that adds nothing, and then one that does.
    shape, path = SHAPES[0], str(tmp_path / "layer.safetensors")
    config = DecodingConfig(
        commit={"kind": "quota"},
        stop={"kind": "length"},
        verify={"kind": "joint_sampler", "path": path, "tokens": 4},
    )
    found = []
    for number, out in enumerate((0.0, 1.0)):
        save_layer(path, drawn_layer(out=out))
        os.utime(path, ns=(number, number))  # clocks of files are coarse
        requests = [Request([5, 6, 7], config, 12)]
        model = model_of(shape)
        run(engine_of(shape), model.module, model.spec, requests).check()
        found.append(engine_of(shape).generate([5, 6, 7], config=config, max_new_tokens=12))
    assert found[0].tokens != found[1].tokens


def test_no_pass_goes_on_into_the_next_block() -> None:
    # The first evaluation of an adaptive block shows rows of the one after it, too.
    shape = SHAPES[0]
    config = DecodingConfig(
        schedule={
            "kind": "adablock",
            "block_length": 6,
            "threshold": 0.05,
            "lookahead": 1.0,
            "delimiters": tuple(range(0, VOCAB - 1, 2)),
        },
        commit={"kind": "threshold", "threshold": 0.1},
        stop={"kind": "length"},
        verify=verify(shape, 6),
    )
    prompts = [[5, 6, 7], [9], [3, 3, 8, 2]]
    requests = [Request(prompt, config, 20, stream) for stream, prompt in enumerate(prompts)]
    model = model_of(shape)
    run(engine_of(shape), model.module, model.spec, requests).check()


@pytest.mark.slow
def test_many_configurations_decide_as_the_reference_does() -> None:
    total = compared(seed=2, cases=30)
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
