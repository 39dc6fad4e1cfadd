"""One tiny model through Inductor; its four programs stay in Inductor's cache on disk."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from lockstep.compare import Request, Tally, finish, run
from lockstep.drawn import SHAPES, batches, engine_of, model_of
from torch._dynamo.utils import counters

from dllmc.policies.config import DecodingConfig

if TYPE_CHECKING:
    from dllmc.runtime.engine import Engine

SHAPE = SHAPES[1]
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
# Batch 1 and larger ones, with and without sampling.
PROGRAMS = 4


@pytest.fixture(scope="module")
def engine() -> Engine:
    """With all its programs compiled."""
    made = engine_of(SHAPE, "inductor")
    for temperature, prompts in itertools.product((0.0, 1.0), (PROMPTS[:1], PROMPTS)):
        made.generate(prompts, config=DecodingConfig(temperature=temperature), max_new_tokens=4)
    return made


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def test_every_decision_is_that_of_the_reference(engine: Engine) -> None:
    total, model = Tally(), model_of(SHAPE)

    @settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
    @given(batches())
    def drawn(requests: list[Request]) -> None:
        tally = run(engine, model.module, model.spec, requests)
        total.add(tally)
        assert not tally.unexcused

    drawn()
    total.check()
    assert total.decisions > 1500


def test_changing_values_compiles_nothing(engine: Engine) -> None:
    before = graphs()
    sweeps: list[dict[str, Any]] = [
        *({"commit": {"kind": "threshold", "threshold": t / 20}} for t in range(1, 21)),
        *({"commit": {"kind": "factor", "factor": f / 4}} for f in range(1, 13)),
        *({"commit": {"kind": "quota", "steps": steps}} for steps in (1, 2, 5, 12)),
        *({"temperature": t / 8, "seed": 7} for t in range(1, 17)),
        *({"temperature": 1.0, "seed": seed} for seed in (0, 1, 2**31, 2**32, 2**63 - 1)),
    ]
    blocks = {"kind": "blocks", "block_length": 16}
    for axes, prompts in itertools.product(sweeps, (PROMPTS[:1], PROMPTS)):
        config = DecodingConfig(schedule=blocks, **axes)
        engine.generate(prompts, config=config, max_new_tokens=12)
    assert graphs() == before


def test_two_programs_serve_the_plans_of_a_statistics_set(engine: Engine) -> None:
    before, plans = graphs(), set()
    for count, block, length in itertools.product((1, 2, 3), (1, 3, 8, 13), (1, 7, 20)):
        config = DecodingConfig(
            schedule={"kind": "blocks", "block_length": block}, cache={"kind": "prefix"}
        )
        requests = [Request(prompt, config, length) for prompt in PROMPTS[:count]]
        _, states = requests, engine.open([r.prompt for r in requests], config, length)
        pool, opened = states
        while (outcome := engine.step(pool, opened)) is not None:
            plans.add(outcome.plan)
    assert len(plans) >= 50
    assert graphs() == before
    assert engine.programs.compiled == PROGRAMS  # type: ignore[attr-defined]


def test_decodes_are_those_of_the_eager_engine(engine: Engine) -> None:
    eager = engine_of(SHAPE)
    for axes in ({"cache": {"kind": "dual"}}, {"temperature": 0.8, "seed": 11}):
        config = DecodingConfig(schedule={"kind": "blocks", "block_length": 8}, **axes)
        requests = [Request(p, config, 20, stream) for stream, p in enumerate(PROMPTS)]
        assert finish(engine, requests) == finish(eager, requests)
