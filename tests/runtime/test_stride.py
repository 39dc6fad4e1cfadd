"""Strides decide what stepwise decoding decides, in the same steps, whatever the host foresees.

Stepwise decoding is compared with the reference in `test_lockstep.py`.
"""

from __future__ import annotations

import gc
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from lockstep.captured import called_again
from lockstep.compare import Request, opened
from lockstep.drawn import SHAPES, Shape, batches, compiled_model

from dllmc.policies.config import DecodingConfig
from dllmc.runtime.foresight import UNKNOWN, UnforeseenError, foresee
from dllmc.runtime.programs import CapturedPrograms
from dllmc.runtime.state import DecodeState
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dllmc.runtime.engine import Engine

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
BLOCKS = {"kind": "blocks", "block_length": 8}
QUOTA = DecodingConfig(
    schedule=BLOCKS, commit={"kind": "quota"}, cache={"kind": "dual"}, stop={"kind": "length"}
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def engine_of(shape: Shape, look_every: int = 1, device: str = "cpu", **options: Any) -> Engine:
    engine: Engine = compiled_model(shape).engine(
        backend="eager", look_every=look_every, device=device
    )
    if options:
        engine.programs = CapturedPrograms(engine.programs, **options)
    return engine


def decoded(engine: Engine, requests: Sequence[Request]) -> list[list[Any]]:
    """Everything that the steps of every sequence say, but for plans and time."""
    pool, states = opened(engine, requests)
    while engine.advance(pool, states):
        pass
    assert all(bool(cache.isfinite().all()) for cache in pool.caches.values())
    return [[(s.nfe, s.rows, s.positions, s.tokens) for s in state.trace] for state in states]


def foreseen(config: DecodingConfig, shape: Shape = SHAPES[1], most: int = 8) -> list[Any]:
    state = DecodeState(compiled_model(shape).package.spec, [5, 6, 7], config, 24, 0)
    return foresee(state, most)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, id=str(shape.seed), marks=pytest.mark.slow if later else ())
        for later, shape in enumerate(SHAPES[1:9:3])
    ],
)
def test_whatever_is_decoded_strides_do_what_steps_do(shape: Shape, device: str) -> None:
    one = engine_of(shape, device=device)
    capture = None if device == "cuda" else called_again
    many = engine_of(shape, 8, device=device, capture=capture)
    cases = [0]

    @settings(
        max_examples=6,
        derandomize=True,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(batches(shape))
    def drawn(requests: list[Request]) -> None:
        expected = decoded(one, requests)
        for _ in range(2):
            gc.collect()
            assert decoded(many, requests) == expected
        cases[0] += 1

    drawn()
    assert cases[0] == 6
    assert many.strides.graphs is not None
    assert many.strides.graphs.captured > 0
    assert many.strides.graphs.replayed > 0
    assert not many.strides.graphs.failed


def test_a_block_of_a_fixed_schedule_is_one_look() -> None:
    engine = engine_of(SHAPES[1], 8)
    pool, states = engine.open(PROMPTS, QUOTA, 16)
    looks = 0
    while engine.advance(pool, states):
        looks += 1
    assert [state.nfe for state in states] == [16, 16, 16]
    # Two blocks of 8 steps; the pace of the first is not known before.
    assert looks <= 5


def test_what_is_foreseen_is_what_is_evaluated() -> None:
    state = DecodeState(compiled_model(SHAPES[1]).package.spec, [5, 6, 7], QUOTA, 16, 0)
    windows = [(range(19), True)] + [(range(3, 11), False)] * 7
    found = foresee(state, 8)
    assert [(one.evaluation.rows, one.evaluation.refresh) for one in found] == windows
    assert [one.draws for one in found] == list(range(8))


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 8),
        ({"cache": {"kind": "none"}}, 8),
        ({"commit": {"kind": "threshold", "threshold": 0.9}}, 8),
        # How many commit, how many are left, and which were masked is not known ahead.
        ({"cache": {"kind": "dual", "refresh_every": 2}}, 1),
        # Two refreshes begin a block whatever they commit.
        ({"cache": {"kind": "dkv"}}, 2),
        ({"commit": {"kind": "timesteps"}}, 1),
        ({"revise": {"kind": "remask"}}, 1),
        ({"stop": {"kind": "kl"}}, 1),
        ({"verify": {"kind": "self_speculation"}}, 1),
    ],
    ids=str,
)
def test_what_depends_on_results_is_not_foreseen(changes: dict[str, Any], steps: int) -> None:
    assert len(foreseen(QUOTA.replace(**changes))) == steps


@pytest.mark.parametrize(
    "use",
    [bool, int, float, len, list, lambda u: u + 1, lambda u: 3 - u, lambda u: u >= 2,
     lambda u: 4 in u, lambda u: u == u, lambda u: u & {1}, lambda u: {u}],
)  # fmt: skip
def test_the_unknown_may_be_handed_on_and_not_used(use: Callable[[Any], Any]) -> None:
    with pytest.raises(UnforeseenError):
        use(UNKNOWN)


def test_a_stride_that_cannot_be_captured_runs_step_by_step() -> None:
    def refuse(call: Callable[[], Any]) -> Any:
        del call
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    expected = engine_of(SHAPES[1]).generate(PROMPTS, config=QUOTA, max_new_tokens=16)
    engine = engine_of(SHAPES[1], 8, capture=refuse)
    with pytest.warns(RuntimeWarning, match="captured one by one, which is slower: operation not"):
        found = engine.generate(PROMPTS, config=QUOTA, max_new_tokens=16)
    assert (found.tokens, found.nfe) == (expected.tokens, expected.nfe)
    assert engine.strides.graphs is not None
    assert engine.strides.graphs.failed


def test_looking_less_than_at_every_step_is_an_error() -> None:
    with pytest.raises(UsageError, match="`look_every`=0 must be at least 1"):
        engine_of(SHAPES[1], 0)


@pytest.mark.gpu
def test_the_host_waits_once_per_stride() -> None:
    engine = engine_of(SHAPES[1], 8, device="cuda", capture=None)
    for _ in range(3):
        engine.generate(PROMPTS, config=QUOTA, max_new_tokens=16)
        gc.collect()
    pool, states = engine.open(PROMPTS, QUOTA, 16)
    waits = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        while not all(state.done for state in states):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                engine.advance(pool, states)
            waits.append(sum("synchroniz" in str(each.message) for each in caught))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == [1] * len(waits)
    assert len(waits) <= 4
