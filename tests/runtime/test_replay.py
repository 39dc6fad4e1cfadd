"""The steps of a batch follow from what each of its sequences needs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lockstep.drawn import SHAPES, engine_of

from dllmc.policies.config import DecodingConfig
from dllmc.runtime.need import Need
from dllmc.runtime.replay import replay
from dllmc.spec import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lockstep.drawn import Shape
    from torch import Tensor

    from dllmc.runtime import Engine
    from dllmc.spec import StepPlan

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14], [22, 1], [11, 12, 13, 14, 15, 16, 17, 18]]
BLOCKS = {"kind": "blocks", "block_length": 8}
CONFIGS: list[dict[str, Any]] = [
    {"commit": {"kind": "threshold", "threshold": 0.6}, "cache": {"kind": "dual"}},
    {"commit": {"kind": "quota", "steps": 6}, "cache": {"kind": "prefix", "refresh_every": 3}},
    {"commit": {"kind": "entropy_bound"}, "score": {"kind": "entropy"}},
    {"cache": {"kind": "sparse", "ratio": 0.5}},
    {"cache": {"kind": "dkv", "refresh_every": 2}},
    {"cache": {"kind": "dual"}, "verify": {"kind": "self_speculation", "form": "batch"}},
    {"cache": {"kind": "dual"}, "verify": {"kind": "self_speculation", "form": "tree"}},
    {"belief": {"kind": "lrd"}, "cache": {"kind": "prefix"}},
    {"schedule": {"kind": "adablock"}, "commit": {"kind": "threshold", "threshold": 0.5}},
]
PIPELINE = {"schedule": {"kind": "pipeline"}, "cache": {"kind": "block_causal"}}


def steps_of(engine: Engine, prompts: list[list[int]], config: DecodingConfig) -> list[StepPlan]:
    """The plans that ran when `prompts` were decoded together."""
    plans: list[StepPlan] = []
    run = engine.programs.run

    def record(plan: StepPlan, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        plans.append(plan)
        return run(plan, inputs)

    engine.programs.run = record  # type: ignore[method-assign]
    try:
        engine.generate(prompts, config=config, max_new_tokens=20)
    finally:
        del engine.programs.run
    return plans


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        *((SHAPES[2], axes) for axes in CONFIGS),
        (SHAPES[7], PIPELINE),
    ],
    ids=str,
)
def test_what_sequences_need_alone_gives_the_plans_of_their_batch(
    shape: Shape, axes: dict[str, Any]
) -> None:
    config = DecodingConfig(**{"schedule": BLOCKS, **axes})
    engine = engine_of(shape)
    alone = [
        engine.generate(prompt, config=config, max_new_tokens=20, streams=[stream])
        for stream, prompt in enumerate(PROMPTS)
    ]
    decodes = [[(Need.from_key(key), n) for key, n in output.plans] for output in alone]
    replayed = [step.plan for step in replay(decodes, engine.programs)]
    assert replayed == steps_of(engine, PROMPTS, config)


def test_needs_do_not_depend_on_the_batch() -> None:
    config = DecodingConfig(schedule=BLOCKS, cache={"kind": "dual", "refresh_every": 2})
    engine = engine_of(SHAPES[2])
    outputs = [
        engine.generate(PROMPTS, config=config, max_new_tokens=17, batch=batch)
        for batch in (1, 2, 5)
    ]
    assert outputs[0].plans == outputs[1].plans == outputs[2].plans


def test_a_key_of_another_thing_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match="`b1-w3` is no key"):
        Need.from_key("b1-w3")
