from __future__ import annotations

from dataclasses import replace

import pytest

from dllmc.policies.cache.dual import DualCache
from dllmc.policies.cache.vicinity import VicinityCache
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
SHIFTED = SPEC.model_copy(update={"logit_shift": 1})
LATER = Standing((8, 12), (8, 12), (0, 20), 20, 1, 1, 3, True, 0, evaluations=9)
FULL = Evaluation(range(20), range(8, 12), True)


def test_the_window_is_the_block_and_what_stands_near_it() -> None:
    assert VicinityCache(before=4, after=2).window((8, 12), 20) == (4, 14)
    assert VicinityCache(before=16, after=16).window((8, 12), 20) == (0, 20)


def test_only_the_block_may_commit() -> None:
    found = VicinityCache(before=4, after=2).evaluate(LATER, SPEC)
    assert found == Evaluation(range(4, 14), range(8, 12), False)


def test_a_block_begins_with_a_refresh() -> None:
    assert VicinityCache(warmup=0).evaluate(replace(LATER, step=0), SPEC) == FULL
    every = VicinityCache(warmup=0, refresh_every=3)
    assert every.evaluate(LATER, SPEC) == FULL


def test_after_warming_up_one_more_evaluation_fills_the_cache() -> None:
    policy = VicinityCache(before=4, after=2, warmup=2)
    found = [policy.evaluate(replace(LATER, evaluations=n), SPEC).refresh for n in range(1, 5)]
    assert found == [True, True, False, False]
    # None warms up: the block's first evaluation has filled it.
    assert not VicinityCache(warmup=0).evaluate(replace(LATER, evaluations=1), SPEC).refresh


def test_while_it_warms_up_no_drafts_are_verified() -> None:
    standing = replace(LATER, masked=frozenset(range(8, 20)))
    assert VicinityCache(warmup=9).room(standing, SPEC) == 1
    assert VicinityCache(warmup=8).room(standing, SPEC) == 12


def test_with_shifted_logits_only_a_blocks_first_evaluation_commits_one_token() -> None:
    policy = VicinityCache(warmup=4)
    assert policy.evaluate(replace(LATER, step=0), SHIFTED).head == range(8, 9)
    assert policy.evaluate(replace(LATER, evaluations=2), SHIFTED).head == range(8, 12)


def test_without_a_window_and_warming_up_it_is_the_dual_cache() -> None:
    policy = VicinityCache(before=0, after=0, warmup=0)
    for step in (0, 1):
        standing = replace(LATER, step=step)
        assert policy.evaluate(standing, SPEC) == DualCache().evaluate(standing, SPEC)
        assert policy.room(standing, SPEC) == DualCache().room(standing, SPEC)


@pytest.mark.parametrize("fields", [{"before": -1}, {"after": 1.5}, {"warmup": -1}])
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        VicinityCache(**fields)
