"""Several steps in one evaluation are those that stepwise decoding takes one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from lockstep.compare import Request, run
from lockstep.drawn import SHAPES, Shape, engine_of, model_of

from dllmc.policies.config import DecodingConfig

if TYPE_CHECKING:
    from dllmc.runtime.output import Output

FULL, SHIFTED, BLOCKS, SHIFTED_BLOCKS = SHAPES[1], SHAPES[6], SHAPES[7], SHAPES[8]
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14, 5, 21]]
WAYS = [
    *((FULL, cache) for cache in ("none", "prefix", "dual", "vicinity")),
    *((SHIFTED, cache) for cache in ("none", "dual")),
    *((shape, "block_causal") for shape in (BLOCKS, SHIFTED_BLOCKS)),
]


def decode(shape: Shape, cache: str, verify: dict[str, Any], **policies: Any) -> Output:
    config = DecodingConfig(
        schedule={"kind": "blocks", "block_length": 6},
        cache={"kind": cache},
        stop={"kind": "length"},
        verify=verify,
        **policies,
    )
    return engine_of(shape).generate(PROMPTS, config=config, max_new_tokens=12)


@pytest.mark.parametrize("form", ["batch", "tree"])
@pytest.mark.parametrize(("shape", "cache"), WAYS)
def test_tokens_are_those_of_stepwise_decoding_in_fewer_evaluations(
    shape: Shape, cache: str, form: str
) -> None:
    policies: dict[str, Any] = {"commit": {"kind": "quota"}}
    stepwise = decode(shape, cache, {"kind": "none"}, **policies)
    drafted = decode(
        shape, cache, {"kind": "self_speculation", "branches": 3, "form": form}, **policies
    )
    assert drafted.tokens == stepwise.tokens
    assert sum(drafted.nfe) < sum(stepwise.nfe)
    assert all(few <= many for few, many in zip(drafted.nfe, stepwise.nfe, strict=True))


@pytest.mark.parametrize(
    "policies",
    [
        {"commit": {"kind": "quota", "steps": 8}},
        {"commit": {"kind": "threshold", "threshold": 0.6}},
        {"commit": {"kind": "factor", "factor": 1.0}},
        {"commit": {"kind": "quota"}, "score": {"kind": "margin"}},
        {"commit": {"kind": "leftmost"}},
    ],
    ids=lambda policies: "-".join(policy["kind"] for policy in policies.values()),
)
def test_whatever_commits(policies: dict[str, Any]) -> None:
    stepwise = decode(FULL, "dual", {"kind": "none"}, **policies)
    for form in ("batch", "tree"):
        verify = {"kind": "self_speculation", "branches": 4, "form": form}
        drafted = decode(FULL, "dual", verify, **policies)
        assert drafted.tokens == stepwise.tokens
        assert sum(drafted.nfe) <= sum(stepwise.nfe)


def test_a_refresh_in_between_is_not_skipped() -> None:
    def dual(verify: dict[str, Any]) -> Output:
        config = DecodingConfig(
            schedule={"kind": "blocks", "block_length": 12},
            commit={"kind": "quota"},
            cache={"kind": "dual", "refresh_every": 4},
            stop={"kind": "length"},
            verify=verify,
        )
        return engine_of(FULL).generate(PROMPTS, config=config, max_new_tokens=12)

    stepwise, drafted = dual({"kind": "none"}), dual({"kind": "self_speculation", "branches": 8})
    assert drafted.tokens == stepwise.tokens
    refreshed = [[len(step.rows) > 12 for step in trace] for trace in drafted.trace]
    assert [sum(each) for each in refreshed] == [3, 3, 3]
    assert sum(drafted.nfe) < sum(stepwise.nfe)


@pytest.mark.parametrize("form", ["batch", "tree"])
def test_fewer_drafts_than_a_neighbour_has_are_as_far_on(form: str) -> None:
    # The second has two canvases where the first has four; 8 tokens in 5 steps are 2, 2, 2, 1, 1.
    def config_of(steps: int, every: int | None) -> DecodingConfig:
        return DecodingConfig(
            schedule={"kind": "whole"},
            commit={"kind": "quota", "steps": steps},
            cache={"kind": "dual", "refresh_every": every},
            stop={"kind": "length"},
            verify={"kind": "self_speculation", "branches": 4, "form": form},
        )

    requests = [
        Request(PROMPTS[0], config_of(12, None), 12),
        Request([8, 15, 2, 2, 21, 4], config_of(5, 5), 8),
    ]
    in_lockstep(requests)


@pytest.mark.parametrize("form", ["batch", "tree"])
def test_a_block_that_opens_beside_drafts_ends_where_its_schedule_chose(form: str) -> None:
    schedule = {
        "kind": "adablock",
        "block_length": 4,
        "delimiters": (4, 6, 9, 11, 12, 15, 16, 18),
        "threshold": 0.05,
    }
    config = DecodingConfig(
        schedule=schedule,
        commit={"kind": "quota"},
        cache={"kind": "none"},
        stop={"kind": "length"},
        verify={"kind": "self_speculation", "form": form},
    )
    lengths = (16, 16, 5)
    in_lockstep([Request(p, config, n) for p, n in zip(PROMPTS, lengths, strict=True)])


def test_drafts_stay_in_the_block_where_its_schedule_saw_more() -> None:
    config = DecodingConfig(
        schedule={"kind": "adablock", "block_length": 4, "lookahead": 0.5, "threshold": 0.7},
        commit={"kind": "quota"},
        cache={"kind": "none"},
        stop={"kind": "length"},
        verify={"kind": "self_speculation", "branches": 3},
    )
    in_lockstep([Request(prompt, config, 22) for prompt in ([10, 22, 13, 17, 13, 13], [9])])


def in_lockstep(requests: list[Request]) -> None:
    model = model_of(FULL)
    run(engine_of(FULL), model.module, model.spec, requests).check()


def test_one_branch_is_stepwise_decoding() -> None:
    policies = {"commit": {"kind": "quota"}}
    stepwise = decode(FULL, "dual", {"kind": "none"}, **policies)
    alone = decode(FULL, "dual", {"kind": "self_speculation", "branches": 1}, **policies)
    assert (alone.tokens, alone.nfe) == (stepwise.tokens, stepwise.nfe)


def test_what_was_verified_together_is_one_step_of_the_trace() -> None:
    policies = {"commit": {"kind": "quota"}}
    drafted = decode(FULL, "none", {"kind": "self_speculation", "branches": 4}, **policies)
    for trace in drafted.trace:
        written = [len(step.positions) for step in trace]
        assert sum(written) == 12
        assert max(written) <= 4
        assert written[0] == 1
