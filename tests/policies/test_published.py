from __future__ import annotations

import pytest

from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE
from dllmc.policies.published import BASELINE, BLOCKS, REFERENCE, STRATEGIES, Strategy
from dllmc.spec import ConfigError

BY_NAME = {strategy.name: strategy for strategy in STRATEGIES}
TOKENS = {",": 4, "a": 5, " :": 6}


def test_each_is_another_configuration_of_a_name_of_its_own() -> None:
    configs = {strategy.config(TOKENS).canonical_json() for strategy in STRATEGIES}
    assert len(configs) == len(BY_NAME) == len(STRATEGIES)


@pytest.mark.parametrize("length", [8, 16, 32, 64, 256])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
def test_each_can_decode_responses_of_whole_blocks(strategy: Strategy, length: int) -> None:
    strategy.config(TOKENS, length).check(length)


def test_quality_and_speed_are_compared_with_those_of_dllmc() -> None:
    assert BY_NAME[REFERENCE].config({}) == QUALITY_REFERENCE.replace(schedule=BLOCKS)
    assert BY_NAME[BASELINE].config({}) == SPEED_BASELINE.replace(schedule=BLOCKS)


def test_half_the_steps_are_half_of_any_response() -> None:
    half = BY_NAME["LLaDA, half the steps"]
    assert [half.config({}, length).commit.steps for length in (8, 32, 64)] == [4, 16, 32]  # type: ignore[attr-defined]


def test_adaptive_blocks_end_with_delimiters_of_the_vocabulary() -> None:
    adaptive = BY_NAME["AdaBlock"]
    assert adaptive.config(TOKENS).schedule.delimiters == (4, 6)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="no delimiters"):
        adaptive.config({"a": 5})


def test_only_those_that_verify_with_it_ask_the_causal_model() -> None:
    asking = [s for s in STRATEGIES if s.config(TOKENS).verify.auxiliary is not None]
    assert asking == [s for s in STRATEGIES if s.auxiliary]
