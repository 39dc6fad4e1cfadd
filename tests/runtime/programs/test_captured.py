"""Captured steps decide what the programs decide that were captured.

Without a GPU a capture is a call that is made again at every replay, into the results of the
first: buffers, copies and keys are those of a GPU.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from lockstep.captured import called_again
from lockstep.compare import Request, Tally, finish, run
from lockstep.drawn import SHAPES, Shape, batches, compiled_model, model_of

from dllmc.policies.config import DecodingConfig
from dllmc.runtime.programs import CapturedPrograms

if TYPE_CHECKING:
    from collections.abc import Callable

    from dllmc.runtime.engine import Engine

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
CONFIG = DecodingConfig(schedule={"kind": "blocks", "block_length": 8})


def engine_of(shape: Shape, capture: Any = called_again, **options: Any) -> Engine:
    engine: Engine = compiled_model(shape).engine(backend="eager")
    engine.programs = CapturedPrograms(engine.programs, capture=capture, **options)
    return engine


def programs_of(engine: Engine) -> CapturedPrograms:
    assert isinstance(engine.programs, CapturedPrograms)
    return engine.programs


def decode(engine: Engine, config: DecodingConfig = CONFIG) -> tuple[Any, Any]:
    output = engine.generate(PROMPTS, config=config, max_new_tokens=24)
    return output.tokens, output.nfe


def lockstep(engine: Engine, shape: Shape, cases: int, *, plain: bool = False) -> None:
    total, model = Tally(), model_of(shape)

    @settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(batches(shape, plain=plain))
    def drawn(requests: list[Request]) -> None:
        total.add(run(engine, model.module, model.spec, requests))

    drawn()
    total.check()
    assert programs_of(engine).replayed > 5 * cases


@pytest.mark.parametrize("shape", SHAPES[1:9:3], ids=lambda shape: str(shape.seed))
def test_every_decision_is_that_of_the_reference(shape: Shape) -> None:
    lockstep(engine_of(shape), shape, 6)


def test_a_second_decode_replays_every_step_of_the_first() -> None:
    engine = engine_of(SHAPES[1])
    programs = programs_of(engine)
    first = decode(engine)
    captured, replayed = programs.captured, programs.replayed
    assert captured > 0
    gc.collect()
    assert decode(engine) == first == decode(compiled_model(SHAPES[1]).engine(backend="eager"))
    assert programs.captured == captured
    steps = sum(
        count for plans in engine.generate(PROMPTS, config=CONFIG).plans for _, count in plans
    )
    assert steps
    assert programs.replayed > replayed


def test_caches_of_a_pool_that_is_in_use_are_not_lent_again() -> None:
    engine = engine_of(SHAPES[1])
    pools = [engine.open(PROMPTS, CONFIG, 16)[0] for _ in range(2)]
    first, second = ({cache.data_ptr() for cache in pool.caches.values()} for pool in pools)
    assert not first & second
    del pools
    gc.collect()
    third = {c.data_ptr() for c in engine.open(PROMPTS, CONFIG, 16)[0].caches.values()}
    assert third in (first, second)


def test_lent_caches_are_zeros_again() -> None:
    engine = engine_of(SHAPES[1])
    decode(engine)
    gc.collect()
    pool, _ = engine.open(PROMPTS, CONFIG, 24)
    assert all(not cache.any() for cache in pool.caches.values())


def test_rows_and_slots_are_of_few_sizes() -> None:
    engine = engine_of(SHAPES[1])
    pool, states = engine.open(PROMPTS, CONFIG, 24)
    plans = set()
    while (outcome := engine.step(pool, states)) is not None:
        plans.add(outcome.plan)
    assert {plan.slots for plan in plans} == {64}
    assert all(plan.rows % 8 == 0 and plan.head_rows % 8 == 0 for plan in plans)


def test_the_graph_not_used_for_longest_goes_first() -> None:
    engine = engine_of(SHAPES[1], graphs=2)
    expected = decode(compiled_model(SHAPES[1]).engine(backend="eager"))
    for _ in range(2):
        assert decode(engine) == expected
    assert programs_of(engine).captured == 2


def test_what_cannot_be_captured_runs_uncaptured_with_one_warning_per_plan() -> None:
    def refuse(call: Callable[[], Any]) -> Any:
        del call
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    engine = engine_of(SHAPES[1], refuse)
    expected = decode(compiled_model(SHAPES[1]).engine(backend="eager"))
    with pytest.warns(RuntimeWarning) as warned:
        assert decode(engine) == expected
    failed = programs_of(engine).failed
    assert len(warned) == len(failed) > 0
    slower = "runs uncaptured, which is slower: operation not permitted when stream is capturing; "
    assert all(slower in str(warning.message) for warning in warned)
    assert decode(engine) == expected
    assert programs_of(engine).failed == failed
    assert programs_of(engine).replayed == programs_of(engine).captured == 0


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape.seed))
def test_every_decision_on_a_gpu_is_that_of_the_reference(shape: Shape) -> None:
    engine: Engine = compiled_model(shape).engine(backend="eager", device="cuda")
    engine.programs = CapturedPrograms(engine.programs)
    lockstep(engine, shape, 6)
    assert not programs_of(engine).failed


@pytest.mark.gpu
def test_compiled_steps_are_captured_on_a_gpu() -> None:
    engine: Engine = compiled_model(SHAPES[1]).engine(backend="inductor", device="cuda")
    assert engine.execution == "inductor+graphs+strides"
    lockstep(engine, SHAPES[1], 6, plain=True)
    programs = programs_of(engine)
    assert not programs.failed
    expected = decode(compiled_model(SHAPES[1]).engine(backend="eager"))
    for _ in range(3):
        assert decode(engine) == expected


@pytest.mark.gpu
def test_requests_of_unequal_length_share_captured_steps() -> None:
    engine: Engine = compiled_model(SHAPES[2]).engine(backend="inductor", device="cuda")
    plain: Engine = compiled_model(SHAPES[2]).engine(backend="eager")
    requests = [Request(prompt, CONFIG, 9 + 5 * n, n) for n, prompt in enumerate(PROMPTS)]
    for _ in range(2):
        assert finish(engine, requests) == finish(plain, requests)
