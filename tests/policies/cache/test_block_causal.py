from __future__ import annotations

from dataclasses import replace

import pytest

from dllmc.policies.cache.block_causal import BlockCausalCache
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(
    mask_id=9, vocab_size=10, max_length=64, attention="block_causal", block_length=8
)
SHIFTED = SPEC.model_copy(update={"logit_shift": 1})
# The third block begins; the two before it are finished but not yet evaluated as such.
BEGINNING = Standing((16, 20), (16, 20), (16, 24), 24, 0, 0, 3, True, 8)
READY = replace(BEGINNING, exact=16)


def test_a_finished_block_is_appended_in_an_evaluation_of_its_own() -> None:
    cache = BlockCausalCache()
    assert cache.evaluate(BEGINNING, SPEC) == Evaluation(range(8, 16), range(16, 16), False)
    assert cache.evaluate(READY, SPEC) == Evaluation(range(16, 24), range(16, 20), True)


def test_with_shifted_logits_appending_commits_the_next_blocks_first_token() -> None:
    assert BlockCausalCache().evaluate(BEGINNING, SHIFTED).head == range(16, 17)
    committed = replace(BEGINNING, first_masked=False)
    assert BlockCausalCache().evaluate(committed, SHIFTED).head == range(16, 16)


def test_a_finished_block_may_be_joined_with_the_next() -> None:
    joined = BlockCausalCache(append="joined")
    assert joined.evaluate(BEGINNING, SPEC) == Evaluation(range(8, 24), range(16, 20), False)
    assert joined.evaluate(READY, SPEC).rows == range(16, 24)
    # The row that predicts the first position is evaluated with the block.
    assert joined.evaluate(READY, SHIFTED).rows == range(15, 24)


def test_a_sub_block_is_evaluated_alone_once_its_first_token_stands() -> None:
    within = BlockCausalCache(within="sub_block")
    assert within.evaluate(READY, SPEC).rows == range(16, 24)
    later = replace(READY, step=1, outer_steps=1)
    assert within.evaluate(later, SPEC).rows == range(16, 24)
    started = replace(later, first_masked=False)
    assert within.evaluate(started, SPEC) == Evaluation(range(16, 20), range(16, 20), False)
    assert within.evaluate(replace(started, outer_steps=0), SPEC).rows == range(16, 24)


def test_a_sub_block_is_evaluated_with_the_prompts_end() -> None:
    within = BlockCausalCache(within="sub_block")
    after_prompt = replace(READY, block=(18, 20), first_masked=False, outer_steps=1)
    assert within.evaluate(after_prompt, SPEC) == Evaluation(range(16, 20), range(18, 20), False)


def test_it_is_for_block_causal_attention() -> None:
    BlockCausalCache().check_model(SPEC)
    full = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    with pytest.raises(ConfigError, match=r"`cache\.kind`='block_causal'.*'full'; use 'dual'"):
        BlockCausalCache().check_model(full)


@pytest.mark.parametrize("fields", [{"append": "later"}, {"within": "row"}])
def test_bad_values_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        BlockCausalCache(**fields)  # type: ignore[arg-type]


def test_drafts_go_to_the_blocks_end_while_its_rows_stay_the_same() -> None:
    begun = replace(READY, step=1, outer_steps=1, masked=frozenset(range(17, 24)))
    policy, decided = BlockCausalCache(), replace(begun, first_masked=False)
    assert [policy.room(begun, SPEC), policy.room(decided, SPEC)] == [7, 7]
    # What stands before the block is to be appended first.
    assert policy.room(replace(begun, exact=8), SPEC) == 1
    # The row that predicts the first position is evaluated until that one is decided.
    assert [policy.room(begun, SHIFTED), policy.room(decided, SHIFTED)] == [1, 7]
    # Evaluations narrow to the sub-block then.
    narrow = BlockCausalCache(within="sub_block")
    assert [narrow.room(begun, SPEC), narrow.room(decided, SPEC)] == [1, 7]
    assert narrow.room(replace(decided, outer_steps=0), SPEC) == 1
