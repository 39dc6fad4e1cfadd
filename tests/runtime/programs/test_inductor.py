"""One tiny model through Inductor; its programs stay in Inductor's cache on disk."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from lockstep.compare import Request, Tally, finish, run
from lockstep.drawn import SHAPES, batches, engine_of, model_of
from torch._dynamo.utils import counters

from dllmc.policies.config import DecodingConfig
from dllmc.runtime.programs import _compile_graph
from dllmc.runtime.programs.base import variant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import SearchStrategy

    from dllmc.runtime.engine import Engine

SHAPE = SHAPES[1]
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
EXPLORING = settings.get_current_profile_name() == "explore"
CASES = 200 if EXPLORING else 12
# A failing case prints its request; shrinking it would take minutes.
PHASES = (Phase.explicit, Phase.generate)
FEW = 60 if EXPLORING else 4


@pytest.fixture(scope="module")
def engine() -> Engine:
    """With all its programs compiled."""
    made = engine_of(SHAPE, "inductor")
    for temperature, prompts in itertools.product((0.0, 1.0), (PROMPTS[:1], PROMPTS)):
        made.generate(prompts, config=DecodingConfig(temperature=temperature), max_new_tokens=4)
    return made


@pytest.fixture
def no_compilation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is compiled from here on, neither by the runtime nor behind its back."""

    def refuse(*arguments: object) -> NoReturn:
        raise AssertionError(f"compiles once more: {arguments}")

    monkeypatch.setattr(_compile_graph, "compile_graph", refuse)
    monkeypatch.setattr(_compile_graph, "compile_piece", refuse)
    before = compilations()
    yield
    assert compilations() == before


def compilations() -> tuple[int, ...]:
    cached = (counters["inductor"][f"fxgraph_cache_{what}"] for what in ("hit", "miss", "bypass"))
    return (counters["stats"]["unique_graphs"], *cached)


def compare(engine: Engine, drawing: SearchStrategy[list[Request]], cases: int) -> None:
    total, model = Tally(), model_of(SHAPE)

    @settings(
        max_examples=cases,
        derandomize=not EXPLORING,
        phases=PHASES,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(drawing)
    def drawn(requests: list[Request]) -> None:
        tally = run(engine, model.module, model.spec, requests)
        total.add(tally)
        assert not tally.unexcused

    drawn()
    total.check()
    assert total.decisions > 50 * cases


@pytest.mark.usefixtures("no_compilation")
def test_every_decision_is_that_of_the_reference(engine: Engine) -> None:
    compare(engine, batches(SHAPE, plain=True), CASES)


@pytest.mark.slow
def test_policies_that_need_programs_of_their_own_decide_as_the_reference(engine: Engine) -> None:
    # Each case compiles one or more, for some seconds each.
    compare(engine, batches(SHAPE), FEW)


@pytest.mark.usefixtures("no_compilation")
def test_changing_values_compiles_nothing(engine: Engine) -> None:
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


@pytest.mark.usefixtures("no_compilation")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_two_programs_serve_the_plans_of_a_statistics_set(
    engine: Engine, temperature: float
) -> None:
    plans = set()
    for count, block, length in itertools.product((1, 2, 3), (1, 3, 8, 13), (1, 7, 20)):
        config = DecodingConfig(
            schedule={"kind": "blocks", "block_length": block},
            cache={"kind": "prefix"},
            temperature=temperature,
        )
        pool, opened = engine.open(PROMPTS[:count], config, length)
        while (outcome := engine.step(pool, opened)) is not None:
            plans.add(outcome.plan)
    assert len(plans) >= 50
    assert compilations()[0] == 0  # Dynamo takes no part.
    assert len({(variant(plan), plan.batch == 1) for plan in plans}) == 2


def test_decodes_are_those_of_the_eager_engine(engine: Engine) -> None:
    eager = engine_of(SHAPE)
    for axes in ({"cache": {"kind": "dual"}}, {"temperature": 0.8, "seed": 11}):
        config = DecodingConfig(schedule={"kind": "blocks", "block_length": 8}, **axes)
        requests = [Request(p, config, 20, stream) for stream, p in enumerate(PROMPTS)]
        assert finish(engine, requests) == finish(eager, requests)
