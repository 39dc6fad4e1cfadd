from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lockstep.drawn import SHAPES, compiled_model

from dllmc.policies.config import DecodingConfig
from dllmc.spec import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.runtime.engine import Engine

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]


@pytest.fixture(scope="module")
def engine() -> Engine:
    found: Engine = compiled_model(SHAPES[1]).engine(backend="inductor")
    return found


def config_of(threshold: float, **changes: Any) -> DecodingConfig:
    return DecodingConfig(
        schedule={"kind": "blocks", "block_length": 6},
        commit={"kind": "threshold", "threshold": threshold},
        stop={"kind": "length"},
        **changes,
    )


def decode(engine: Engine, config: DecodingConfig, prompts: Sequence[Sequence[int]]) -> Any:
    output = engine.generate(prompts, config=config, max_new_tokens=16)
    return output.tokens, output.nfe


def test_a_compiled_select_program_decides_the_same_for_all_values_of_its_knobs(
    engine: Engine,
) -> None:
    configs = [config_of(threshold) for threshold in (0.2, 0.5, 0.9)]
    plain = [decode(engine, config, PROMPTS) for config in configs]
    assert engine.selects.compiled == 0
    engine.specialise(configs=configs[:1])
    assert [decode(engine, config, PROMPTS) for config in configs] == plain
    # One for several sequences; one for a single one, as where the others have finished.
    assert 1 <= engine.selects.compiled <= 2
    compiled = engine.selects.compiled
    assert decode(engine, configs[1], PROMPTS[:2])[0] == plain[1][0][:2]
    assert engine.selects.compiled <= max(compiled, 2)


def test_only_what_was_asked_for_is_compiled(engine: Engine) -> None:
    compiled, left = engine.selects.compiled, engine.selects.left
    other = config_of(0.5).replace(commit={"kind": "factor"})
    decode(engine, other, PROMPTS)
    assert (engine.selects.compiled, engine.selects.left) == (compiled, left)


def test_it_goes_with_inductor() -> None:
    eager: Engine = compiled_model(SHAPES[1]).engine(backend="eager")
    with pytest.raises(PlanError, match="use `inductor`"):
        eager.specialise(configs=[DecodingConfig()])
