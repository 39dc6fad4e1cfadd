"""Policies whose knobs do nothing decode as those that are left out."""

from __future__ import annotations

from typing import Any

import pytest
from lockstep.drawn import SHAPES, engine_of

from dllmc.policies.config import DecodingConfig

pytestmark = pytest.mark.slow

PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14]]
PLAIN = DecodingConfig(
    schedule={"kind": "blocks", "block_length": 6},
    commit={"kind": "threshold", "threshold": 0.9},
    stop={"kind": "length"},
)
NEUTRAL: list[dict[str, Any]] = [
    {"schedule": {"kind": "adablock", "block_length": 6, "threshold": 2, "delimiters": (1, 2, 3)}},
    {"schedule": {"kind": "adablock", "block_length": 6, "lookahead": 0, "delimiters": (1, 2, 3)}},
    {"belief": {"kind": "smoothing", "weight": 0}},
    {"belief": {"kind": "lrd", "blend": 0, "refine_steps": 0}},
    {"cache": {"kind": "vicinity", "before": 0, "after": 0, "warmup": 0}},
    {"revise": {"kind": "remask", "eta": 0}},
    {"revise": {"kind": "remask", "eta": 1, "steps": 0}},
]


def decoded(config: DecodingConfig) -> tuple[Any, Any]:
    found = engine_of(SHAPES[1]).generate(PROMPTS, config=config, max_new_tokens=20)
    return found.tokens, found.nfe


@pytest.mark.parametrize("policies", NEUTRAL, ids=lambda policies: str(*policies))
def test_what_does_nothing_decodes_as_what_is_left_out(policies: dict[str, Any]) -> None:
    assert decoded(PLAIN.replace(**policies)) == decoded(PLAIN)


def test_a_threshold_of_1_has_nowhere_to_fall() -> None:
    annealed = PLAIN.replace(commit={"kind": "annealed_threshold", "threshold": 1, "decay": 0.05})
    assert decoded(annealed) == decoded(
        PLAIN.replace(commit={"kind": "threshold", "threshold": 1})
    )


def test_without_local_steps_nothing_is_cached() -> None:
    config = PLAIN.replace(cache={"kind": "partial", "local_steps": 0})
    assert decoded(config) == decoded(PLAIN.replace(cache={"kind": "none"}))


def test_one_block_as_long_as_the_response_is_the_whole() -> None:
    blocks = PLAIN.replace(schedule={"kind": "blocks", "block_length": 20})
    assert decoded(PLAIN.replace(schedule={"kind": "whole"})) == decoded(blocks)


def test_a_divergence_that_is_never_small_enough_stops_as_eos() -> None:
    config = PLAIN.replace(stop={"kind": "kl", "threshold": 0})
    assert decoded(config) == decoded(PLAIN.replace(stop={"kind": "eos"}))


@pytest.mark.parametrize(
    "policies",
    [
        {
            "schedule": {
                "kind": "adablock",
                "block_length": 6,
                "threshold": 0.1,
                "delimiters": (7,),
            }
        },
        {"belief": {"kind": "smoothing"}},
        {"belief": {"kind": "lrd", "blend": 0.4, "refine_steps": 0}},
        {"cache": {"kind": "vicinity", "before": 4, "after": 4, "warmup": 0}},
        {"cache": {"kind": "partial"}},
        {"stop": {"kind": "kl", "threshold": 0.5}},
        {"revise": {"kind": "remask", "eta": 1}},
        {"revise": {"kind": "remask", "eta": 1, "how": "resample"}},
    ],
    ids=lambda policies: str(*policies),
)
def test_what_does_something_decodes_otherwise(policies: dict[str, Any]) -> None:
    assert decoded(PLAIN.replace(**policies)) != decoded(PLAIN)


def test_refining_takes_evaluations_that_commit_nothing() -> None:
    config = PLAIN.replace(belief={"kind": "lrd", "blend": 0, "refine_threshold": 0})
    tokens, nfe = decoded(PLAIN.replace(cache={"kind": "none"}))
    for steps in (1, 2):
        waiting = {**config.belief.model_dump(), "refine_steps": steps}
        found = decoded(config.replace(cache={"kind": "none"}, belief=waiting))
        # Four blocks of a response of 20.
        assert found == (tokens, [n + 4 * steps for n in nfe])
