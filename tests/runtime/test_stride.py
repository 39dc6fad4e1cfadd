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
from dllmc.runtime.captured_stride import CapturedStrides
from dllmc.runtime.foresight import UNKNOWN, UnforeseenError, foresee
from dllmc.runtime.programs import CapturedPrograms
from dllmc.runtime.state import DecodeState
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dllmc.runtime.engine import Engine
    from dllmc.runtime.pool import Pool

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
    return [told(state) for state in states]


def told(state: DecodeState) -> list[Any]:
    return [(s.nfe, s.rows, s.positions, s.tokens) for s in state.trace]


def compare(one: Engine, many: Engine, requests: Sequence[Request]) -> None:
    """Decode in strides and step by step: after every look, sequences stand alike.

    Not only what was told: what is idle in a stride must leave canvas, caches and memory alone.
    """
    (steps, stepwise), (strides, states) = opened(one, requests), opened(many, requests)
    while many.advance(strides, states):
        for other, state in zip(stepwise, states, strict=True):
            while len(other.trace) < len(state.trace):
                one.step(steps, [other])
            assert told(other) == told(state)
        for name, found in held(strides).items():
            # In a batch of another size float32 rounds otherwise, by 1.8e-5 of what was seen.
            close = torch.testing.assert_close
            close(found, held(steps)[name], rtol=1e-3, atol=1e-3, equal_nan=True)
    assert all(state.done for state in stepwise)


def held(pool: Pool) -> dict[str, torch.Tensor]:
    """What a pool holds but for scratch, and what is padded to the slots of the other."""
    length = max(state.length for state in pool.members)
    found = {"canvas": pool.canvas[:, :length]}
    found |= {name: cache[:, :, :length] for name, cache in pool.caches.items()}
    for (name, entry), value in pool.memory.items():
        found[name] = value[:, :length] if entry.per == "position" else value
    return found


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
        for _ in range(2):
            gc.collect()
            compare(one, many, requests)
        cases[0] += 1

    drawn()
    assert cases[0] == 6
    assert many.strides.graphs is not None
    assert many.strides.graphs.captured > 0
    assert many.strides.graphs.replayed > 0
    assert not many.strides.graphs.failed


THRESHOLD = {"kind": "threshold", "threshold": 0.5}


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        # Keys of a finished sub-block stay those of its last evaluation.
        (SHAPES[7], {"cache": {"kind": "block_causal", "within": "sub_block"}}),
        (SHAPES[8], {"cache": {"kind": "block_causal"}}),
        (SHAPES[6], {"cache": {"kind": "prefix"}}),
        (SHAPES[1], {"belief": {"kind": "lrd"}}),
        (SHAPES[1], {"score": {"kind": "credit"}}),
        # Responses end with masks behind them.
        (SHAPES[3], {"stop": {"kind": "eos"}, "schedule": {"kind": "whole"}, "temperature": 1.0}),
        (SHAPES[3], {"stop": {"kind": "eot"}, "schedule": {"kind": "whole"}}),
    ],
    ids=str,
)
def test_idle_sequences_are_left_as_they_are(
    shape: Shape, changes: dict[str, Any], captured: bool
) -> None:
    config = QUOTA.replace(
        **{"schedule": {"kind": "blocks", "block_length": 3}, "commit": THRESHOLD, **changes}
    )
    requests = [Request(prompt, config, 16, n) for n, prompt in enumerate(PROMPTS)]
    options = {"capture": called_again} if captured else {}
    compare(engine_of(shape), engine_of(shape, 8, **options), requests)


def test_pools_that_are_decoded_in_turn_keep_apart() -> None:
    one, many = engine_of(SHAPES[1]), engine_of(SHAPES[1], 8, capture=called_again)
    others = [[7, 2, 3], [11], [4, 6, 2, 9, 9]]
    batches_of = [[Request(p, QUOTA, 16, 0) for p in prompts] for prompts in (PROMPTS, others)]
    pools = [opened(many, requests) for requests in batches_of]
    while sum(many.advance(*pool) for pool in pools):
        pass
    expected = [decoded(one, requests) for requests in batches_of]
    assert [[told(state) for state in states] for _, states in pools] == expected


def test_graphs_are_of_one_way_to_decode() -> None:
    one, many = engine_of(SHAPES[3]), engine_of(SHAPES[3], 8, capture=called_again)
    ended = QUOTA.replace(
        stop={"kind": "eos"}, schedule={"kind": "whole"}, commit=THRESHOLD, temperature=1.0
    )
    for config in (ended, ended.replace(stop={"kind": "length"}), ended):
        requests = [Request(prompt, config, 16, n) for n, prompt in enumerate(PROMPTS)]
        assert decoded(many, requests) == decoded(one, requests)
        gc.collect()


def test_sequences_may_be_given_in_another_order_every_time() -> None:
    one, many = engine_of(SHAPES[1]), engine_of(SHAPES[1], 8, capture=called_again)
    requests = [Request(prompt, QUOTA, 16, n) for n, prompt in enumerate(PROMPTS)]
    expected = decoded(one, requests)
    for turns in (1, -1):
        gc.collect()
        pool, states = opened(many, requests)
        given = list(states)
        while many.advance(pool, given):
            given = given[::turns]
        assert [told(state) for state in states] == expected
        # The next pool is to get these caches.
        del pool


def test_what_an_idle_sequence_remembers_stays() -> None:
    pool, states = engine_of(SHAPES[1]).open(PROMPTS, QUOTA.replace(belief={"kind": "lrd"}), 16)
    rows, positions = torch.arange(3), torch.zeros(3, 1, dtype=torch.int64)
    memory = pool.recall(states[0], rows, positions)
    memory["belief.refining"] = torch.zeros(3, dtype=torch.bool)
    pool.keep(states[0], rows, positions, memory, torch.tensor([True, False, True]))
    assert pool.recall(states[0], rows, positions)["belief.refining"].tolist() == [0, 1, 0]


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
     lambda u: 4 in u, lambda u: u == u, lambda u: u & {1}, lambda u: {u}, lambda u: divmod(u, 2),
     lambda u: u.intersection({1}), lambda u: {1}.union(u), round, abs, lambda u: u[0]],
)  # fmt: skip
def test_the_unknown_may_be_handed_on_and_not_used(use: Callable[[Any], Any]) -> None:
    with pytest.raises(UnforeseenError):
        use(UNKNOWN)


def test_a_graph_holds_what_its_own_sequences_remember() -> None:
    refined = QUOTA.replace(belief={"kind": "lrd"})
    mixed = [Request([5, 6, 7], QUOTA, 16, 0), Request([9], refined, 16, 1)]
    # The first goes on alone, as it does beside one that is decoded otherwise.
    plain = [Request([5, 6, 7], QUOTA, 16, 0), Request([9], QUOTA, 8, 1)]
    one, many = engine_of(SHAPES[1]), engine_of(SHAPES[1], 8, capture=called_again)
    for requests in (mixed, plain, mixed, plain):
        gc.collect()
        assert decoded(many, requests) == decoded(one, requests)
    assert many.strides.graphs is not None
    assert many.strides.graphs.replayed > 0


def test_the_graph_not_used_for_longest_goes_first() -> None:
    engine = engine_of(SHAPES[1], 8, capture=called_again)
    assert isinstance(engine.programs, CapturedPrograms)
    engine.strides.graphs = CapturedStrides(engine.programs, graphs=2)
    expected = engine_of(SHAPES[1]).generate(PROMPTS, config=QUOTA, max_new_tokens=16)
    for _ in range(3):
        found = engine.generate(PROMPTS, config=QUOTA, max_new_tokens=16)
        assert (found.tokens, found.nfe) == (expected.tokens, expected.nfe)
    assert engine.strides.graphs.captured == 2


def test_decodes_in_strides_are_timed_apart() -> None:
    assert engine_of(SHAPES[1]).execution == "eager"
    assert engine_of(SHAPES[1], 8).execution == "eager+strides"


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
