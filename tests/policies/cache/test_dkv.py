from __future__ import annotations

from dataclasses import replace

import pytest

from dllmc.policies.cache.dkv import DkvCache
from dllmc.policies.cache.none import NoCache
from dllmc.policies.config import DecodingConfig
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
SHIFTED = SPEC.model_copy(update={"logit_shift": 1})
# A prompt of 4; the block (4, 10) has decoded 4, 5 and, in the last evaluation, 7.
LATER = Standing(
    *((4, 10), (4, 10), (0, 12), 12, 3, 3, 3, False, 0),
    since_refresh=1,
    prompt=4,
    masked=frozenset({6, 8, 9, 10, 11}),
    was_masked=frozenset({6, 7, 8, 9, 10, 11}),
    evaluations=3,
)
FULL = Evaluation(range(12), range(4, 10), True)


def refreshes(policy: DkvCache, standing: Standing, spec: DenoiserSpec = SPEC) -> bool:
    return policy.evaluate(standing, spec).refresh


def test_rows_that_are_or_were_just_masked_are_evaluated() -> None:
    found = DkvCache(refresh_every=None).evaluate(LATER, SPEC)
    assert found == Evaluation((6, 7, 8, 9, 10, 11), (6, 8, 9), False)


def test_tokens_that_a_cut_took_away_ask_for_no_refresh() -> None:
    # Of the nine that were committed since the last refresh three are left in the block.
    cut = replace(LATER, committed=9)
    for every in (None, 4, 8):
        policy = DkvCache(refresh_every=every)
        assert not refreshes(policy, cut)
        assert not policy.oracle(cut, SPEC)[2]


def test_a_token_is_evaluated_once_more_after_it_was_committed() -> None:
    after = replace(LATER, step=4, was_masked=LATER.masked)
    found = DkvCache(refresh_every=None).evaluate(after, SPEC)
    assert found.rows == (6, 8, 9, 10, 11)


def test_the_first_two_evaluations_of_a_block_cover_everything() -> None:
    never = DkvCache(refresh_every=None)
    found = [never.evaluate(replace(LATER, step=step), SPEC) for step in range(3)]
    assert [each == FULL for each in found] == [True, True, False]


def test_with_shifted_logits_the_second_covers_what_follows_the_prompt() -> None:
    never = DkvCache(refresh_every=None)
    assert never.evaluate(replace(LATER, step=0), SHIFTED) == FULL
    second = never.evaluate(replace(LATER, step=1), SHIFTED)
    assert second == Evaluation(range(3, 12), (6, 8, 9), False)


def test_it_refreshes_every_so_many_steps() -> None:
    policy = DkvCache(refresh_every=3, counts="steps")
    found = [refreshes(policy, replace(LATER, step=step)) for step in range(2, 8)]
    assert found == [False, True, False, False, True, False]


def test_or_every_so_many_tokens() -> None:
    policy = DkvCache(refresh_every=3)
    # Three tokens of the block are decoded.
    found = [refreshes(policy, replace(LATER, committed=n)) for n in range(4)]
    assert found == [False, True, True, True]
    # The first of a block after the last evaluations decoded two of it at once.
    two = replace(LATER, masked=LATER.masked | {5})
    assert [refreshes(policy, replace(two, committed=n)) for n in range(3)] == [False] * 3


@pytest.mark.parametrize("spec", [SPEC, SHIFTED])
def test_refreshing_at_every_step_is_no_cache(spec: DenoiserSpec) -> None:
    policy = DkvCache(refresh_every=1, counts="steps")
    for step in range(5):
        standing = replace(LATER, step=step)
        found, plain = policy.evaluate(standing, spec), NoCache().evaluate(standing, spec)
        assert found == plain == FULL


def test_rows_that_predict_a_masked_one_are_evaluated_with_shifted_logits() -> None:
    found = DkvCache(refresh_every=None).evaluate(LATER, SHIFTED)
    assert found == Evaluation((5, 6, 7, 8, 9, 10), (6, 8, 9), False)


def test_or_masked_rows_too_and_the_last_with_the_one_before_it() -> None:
    policy = DkvCache(refresh_every=None, shift="un_right")
    gaps = replace(LATER, was_masked=frozenset({6, 9, 10}))
    assert policy.evaluate(gaps, SHIFTED).rows == (5, 6, 8, 9, 10, 11)
    early = replace(LATER, was_masked=frozenset({6, 9}))
    assert policy.evaluate(early, SHIFTED).rows == (5, 6, 8, 9)


def test_the_prompt_may_be_evaluated_once() -> None:
    policy = DkvCache(refresh_every=3, counts="steps", prompt="once")
    first = replace(LATER, step=0, outer_steps=0)
    assert policy.evaluate(first, SPEC).rows == range(12)
    assert policy.evaluate(LATER, SPEC).rows == range(4, 12)
    assert policy.evaluate(LATER, SHIFTED).rows == range(3, 12)
    between = replace(LATER, step=4, was_masked=frozenset({4, 6}))
    # Row 3 predicts the response's first position, and is not taken for the prompt.
    assert policy.evaluate(between, SHIFTED).rows == (3, 5)


@pytest.mark.parametrize("revise", ["edit", "remask"])
def test_tokens_are_not_taken_back(revise: str) -> None:
    with pytest.raises(ConfigError, match="does not evaluate these"):
        DecodingConfig(cache={"kind": "dkv"}, revise={"kind": revise})


def test_drafts_are_not_verified() -> None:
    with pytest.raises(ConfigError, match="on keys that the steps between them"):
        DecodingConfig(cache={"kind": "dkv"}, verify={"kind": "self_speculation"})


@pytest.mark.parametrize(
    "fields", [{"refresh_every": 0}, {"counts": "blocks"}, {"prompt": "no"}, {"shift": "right"}]
)
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        DkvCache(**fields)
