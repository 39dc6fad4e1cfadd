"""Compiled decoding decides what the reference decides.

`pytest tests/runtime/test_lockstep.py --hypothesis-profile=explore -s` draws 500 new cases and
prints what was compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lockstep.compare import Request, Tally, run
from lockstep.drawn import SHAPES, Shape, batches, compiled_model, engine_of, model_of

from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.config import DecodingConfig
from dllmc.runtime.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest
    from torch import Tensor

    from dllmc.policies.rows import Rows
    from dllmc.runtime.engine import Engine

# The default suite repeats the same few cases.
EXPLORING = settings.get_current_profile_name() == "explore"
CASES = 500 if EXPLORING else 24
UNHURRIED = [HealthCheck.too_slow, HealthCheck.data_too_large]
# A failing case prints its request; shrinking it would take minutes.
PHASES = (Phase.explicit, Phase.generate)
SAMPLED = DecodingConfig(
    schedule={"kind": "blocks", "block_length": 8},
    temperature=1.0,
    seed=3,
    stop={"kind": "length"},
)


def compare(engine: Engine, shape: Shape, requests: list[Request]) -> Tally:
    model = model_of(shape)
    return run(engine, model.module, model.spec, requests)


def three(config: DecodingConfig) -> list[Request]:
    prompts = ([5, 6, 7], [9], [3, 3, 8, 2, 14])
    return [Request(prompt, config, 16, stream) for stream, prompt in enumerate(prompts)]


def test_every_decision_is_that_of_the_reference() -> None:
    total = Tally()

    @settings(
        max_examples=CASES,
        derandomize=not EXPLORING,
        suppress_health_check=UNHURRIED,
        phases=PHASES,
    )
    @given(st.data(), st.sampled_from(SHAPES))
    def drawn(data: st.DataObject, shape: Shape) -> None:
        requests = data.draw(batches(shape))
        tally = compare(engine_of(shape), shape, requests)
        total.add(tally)
        assert not tally.unexcused

    drawn()
    total.check()
    assert total.decisions > 50 * CASES


def test_other_weights_are_noticed() -> None:
    shape = SHAPES[1]
    compiled = compiled_model(shape)
    engine = compiled.engine(backend="eager")
    other = model_of(Shape(shape.keys, shape.seed + 1, shape.head_scale))
    tally = run(engine, other.module, other.spec, three(DecodingConfig()))
    assert len(tally.unexcused) > 5


def test_noise_of_another_evaluation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(SHAPES[1])
    plain = engine.programs.run

    def shifted(plan: Any, inputs: Mapping[str, Tensor]) -> Any:
        return plain(plan, {**inputs, "nfe": inputs["nfe"] + 1})

    assert not compare(engine, SHAPES[1], three(SAMPLED)).unexcused
    monkeypatch.setattr(engine.programs, "run", shifted)
    assert len(compare(engine, SHAPES[1], three(SAMPLED)).unexcused) > 5


def test_a_lost_cache_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(SHAPES[1])
    plain = engine.programs.run

    def forgetful(plan: Any, inputs: Mapping[str, Tensor]) -> Any:
        lost = {name: torch.zeros_like(t) for name, t in inputs.items() if "keys" in name}
        return plain(plan, {**inputs, **lost})

    monkeypatch.setattr(engine.programs, "run", forgetful)
    config = SAMPLED.replace(temperature=0.0)
    assert len(compare(engine, SHAPES[1], three(config)).unexcused) > 5


def test_a_threshold_that_is_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def generous(self: Threshold, rows: Rows, values: Mapping[str, Tensor]) -> Tensor:
        return rows.doubt <= 1.1 * values["doubt"][:, None]

    monkeypatch.setattr(Threshold, "select", generous)
    config = DecodingConfig(
        commit={"kind": "threshold", "threshold": 0.3}, stop={"kind": "length"}
    )
    tally = Tally()
    for shape in SHAPES[:3]:
        tally.add(compare(engine_of(shape), shape, three(config)))
    assert tally.unexcused


def test_a_step_may_be_of_any_pool_size() -> None:
    # A server admits sequences one by one, so the pool may be larger than who is in it.
    engine = engine_of(SHAPES[0])
    pool, states = engine.open([[4, 5], [6]], SAMPLED, 8)
    assert isinstance(pool, Pool)
    outcome = engine.step(pool, states[1:])
    assert outcome is not None
    assert outcome.states == states[1:]
    assert states[0].nfe == 0
