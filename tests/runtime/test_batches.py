"""A sequence decodes in a batch as it does alone."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from lockstep.compare import Request, finish
from lockstep.drawn import SHAPES, any_config, any_policy, drawn_kinds, engine_of, model_of

from dllmc.policies.axes import AXES
from dllmc.policies.config import DecodingConfig
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from lockstep.drawn import Shape

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14], [22, 1], [11, 12, 13, 14, 15, 16, 17, 18]]
BLOCKS = {"kind": "blocks", "block_length": 8}
CONFIGS: list[dict[str, Any]] = [
    {"commit": {"kind": "threshold", "threshold": 0.6}, "cache": {"kind": "dual"}},
    {"commit": {"kind": "quota", "steps": 6}, "cache": {"kind": "prefix", "refresh_every": 3}},
    {"commit": {"kind": "factor", "factor": 1.2}, "cache": {"kind": "none"}},
    {"cache": {"kind": "dual", "refresh_every": 2}, "temperature": 1.3, "seed": 2**63 - 1},
]


@pytest.mark.parametrize("stop", ["eos", "length"])
@pytest.mark.parametrize("axes", CONFIGS, ids=str)
@pytest.mark.parametrize(
    "shape",
    [*SHAPES[1:3], *(pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[3:5])],
    ids=lambda shape: str(shape.seed),
)
def test_tokens_and_nfe_are_those_of_each_alone(
    shape: Shape, axes: dict[str, Any], stop: str
) -> None:
    config = DecodingConfig(schedule=BLOCKS, stop={"kind": stop}, **axes)
    engine = engine_of(shape)
    together = engine.generate(PROMPTS, config=config, max_new_tokens=20)
    alone = [
        engine.generate(prompt, config=config, max_new_tokens=20, streams=[stream])
        for stream, prompt in enumerate(PROMPTS)
    ]
    assert together.tokens == [output.tokens for output in alone]
    assert together.nfe == [output.nfe for output in alone]


def some_config(axis: str, kind: str, length: int) -> tuple[Shape, DecodingConfig]:
    """A model, and a drawn configuration that decodes it with this kind."""
    rng = random.Random(f"{axis}.{kind}")
    for number in range(20_000):
        # Full attention, or where that does not go blocks, or shifted logits.
        shape = SHAPES[(1, 7, 6)[number % 3]]
        policy = any_policy(rng, axis)
        try:
            if policy["kind"] == kind:
                config = any_config(rng, model_of(shape).spec, length, **{axis: policy})
                config.check_model(model_of(shape).spec)
                config.check(length)
                return shape, config
        except ConfigError:
            continue
    raise AssertionError(f"no configuration with {axis}.{kind} was drawn")


@pytest.mark.parametrize(
    ("axis", "kind"), [(axis, kind) for axis in AXES for kind in sorted(drawn_kinds(axis))]
)
def test_whatever_the_policy(axis: str, kind: str) -> None:
    shape, config = some_config(axis, kind, 12)
    assert getattr(config, axis).kind == kind
    requests = [Request(prompt, config, 12, stream) for stream, prompt in enumerate(PROMPTS[:3])]
    together = finish(engine_of(shape), requests)
    alone = [finish(engine_of(shape), [request]) for request in requests]
    assert together == ([one[0][0] for one in alone], [one[1][0] for one in alone])


def test_the_width_of_the_batch_changes_nothing() -> None:
    config = DecodingConfig(schedule=BLOCKS, temperature=0.7, seed=5)
    outputs = [
        engine_of(SHAPES[2]).generate(PROMPTS, config=config, max_new_tokens=17, batch=batch)
        for batch in (1, 2, 3, 5)
    ]
    assert all(output.tokens == outputs[0].tokens for output in outputs)
    assert all(output.nfe == outputs[0].nfe for output in outputs)


def test_unlike_policies_share_a_batch() -> None:
    engine = engine_of(SHAPES[0])
    requests = [
        Request(prompt, DecodingConfig(schedule=BLOCKS, **axes), 9 + 3 * stream, stream)
        for stream, (prompt, axes) in enumerate(zip(PROMPTS, CONFIGS, strict=False))
    ]
    together = finish(engine, requests)
    alone = [finish(engine, [request]) for request in requests]
    assert together == ([one[0][0] for one in alone], [one[1][0] for one in alone])


def test_sampling_tells_the_sequences_of_a_batch_apart() -> None:
    config = DecodingConfig(schedule=BLOCKS, temperature=1.0, stop={"kind": "length"})
    engine = engine_of(SHAPES[1])
    twins = engine.generate([PROMPTS[0]] * 2, config=config, max_new_tokens=20)
    assert twins.tokens[0] != twins.tokens[1]
    same = engine.generate([PROMPTS[0]] * 2, config=config, max_new_tokens=20, streams=[4, 4])
    assert same.tokens[0] == same.tokens[1]
