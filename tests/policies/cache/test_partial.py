from __future__ import annotations

from dataclasses import replace

import pytest

from dllmc.policies.cache.none import NoCache
from dllmc.policies.cache.partial import PartialCache
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
SHIFTED = SPEC.model_copy(update={"logit_shift": 1})
LATER = Standing(
    *((8, 13), (8, 13), (0, 20), 20, 1, 1, 3, True, 0),
    since_refresh=1,
    masked=frozenset({9, 12, *range(13, 20)}),
)
FULL = Evaluation(range(20), range(8, 13), True)


def test_the_blocks_masked_rows_are_evaluated_alone() -> None:
    assert PartialCache(local_steps=1).evaluate(LATER, SPEC) == Evaluation((9, 12), (9, 12), False)


def test_so_often_after_each_full_evaluation() -> None:
    policy = PartialCache(local_steps=2)
    steps = [policy.evaluate(replace(LATER, since_refresh=n), SPEC).refresh for n in (1, 2, 3)]
    assert steps == [False, False, True]


def test_a_block_begins_with_a_full_evaluation() -> None:
    assert PartialCache().evaluate(replace(LATER, step=0), SPEC) == FULL


def test_rows_that_predict_masked_ones_are_evaluated_with_shifted_logits() -> None:
    found = PartialCache().evaluate(LATER, SHIFTED)
    assert found == Evaluation((8, 9, 11, 12), (9, 12), False)


def test_a_block_without_masks_is_evaluated_in_full() -> None:
    assert PartialCache().evaluate(replace(LATER, masked=frozenset({13})), SPEC) == FULL


def test_without_local_steps_nothing_is_cached() -> None:
    for n in (1, 2):
        standing = replace(LATER, since_refresh=n)
        found = PartialCache(local_steps=0).evaluate(standing, SPEC)
        assert found == NoCache().evaluate(standing, SPEC) == FULL


@pytest.mark.parametrize("fields", [{"local_steps": -1}, {"local_steps": 1.5}])
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="`local_steps`"):
        PartialCache(**fields)
