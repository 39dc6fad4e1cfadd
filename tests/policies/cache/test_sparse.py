from __future__ import annotations

from dataclasses import replace

import pytest

from dllmc.policies.cache.dual import DualCache
from dllmc.policies.cache.sparse import SparseCache
from dllmc.policies.config import DecodingConfig
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
SHIFTED = SPEC.model_copy(update={"logit_shift": 1})
BEGUN = Standing((8, 12), (8, 12), (0, 20), 20, 0, 0, 3, True, 0)
FULL = Evaluation(range(20), range(8, 12), True)


def test_an_evaluation_filters_after_some_of_everything_and_the_block_follows() -> None:
    policy = SparseCache(ratio=0.25, kernel=5, delay=2)
    found = [policy.evaluate(replace(BEGUN, step=step), SPEC) for step in range(5)]
    alone = Evaluation(range(8, 12), range(8, 12), False, kept=True)
    assert found == [FULL, FULL, replace(FULL, keeps=(0.25, 5)), alone, alone]


def test_without_delay_the_first_evaluation_filters() -> None:
    policy = SparseCache(delay=0)
    assert policy.evaluate(BEGUN, SPEC) == replace(FULL, keeps=(0.5, 3))
    assert policy.evaluate(replace(BEGUN, step=1), SPEC).kept


def test_with_shifted_logits_the_first_evaluation_commits_one_token() -> None:
    delayed = SparseCache().evaluate(BEGUN, SHIFTED)
    assert delayed == Evaluation(range(20), range(8, 9), True, first_only=True)
    # All rows of the block say what is salient.
    filters = SparseCache(delay=0).evaluate(BEGUN, SHIFTED)
    assert filters == replace(FULL, first_only=True, keeps=(0.5, 3))
    policy = SparseCache(refresh_commits="policy").evaluate(BEGUN, SHIFTED)
    assert policy == FULL


def test_rows_are_those_of_the_dual_cache_with_a_delay() -> None:
    sparse, dual = SparseCache(delay=1), DualCache()
    steps = [replace(BEGUN, step=step) for step in range(4)]
    found = [(e.rows, e.head) for e in (sparse.evaluate(s, SPEC) for s in (steps[0], *steps[2:]))]
    expected = [(e.rows, e.head) for e in (dual.evaluate(s, SPEC) for s in steps[:3])]
    assert found == expected
    assert sparse.evaluate(steps[1], SPEC).rows == range(20)


def test_what_does_not_go_with_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="on copies of the whole cache"):
        DecodingConfig(cache={"kind": "sparse"}, verify={"kind": "self_speculation"})
    with pytest.raises(ConfigError, match="has fewer keys than were kept"):
        DecodingConfig(cache={"kind": "sparse"}, stop={"kind": "eot"})
    adaptive = {"kind": "adablock"}
    with pytest.raises(ConfigError, match=r"use `cache\.delay`=1"):
        DecodingConfig(cache={"kind": "sparse", "delay": 0}, schedule=adaptive)
    assert DecodingConfig(cache={"kind": "sparse"}, schedule=adaptive).cache.kind == "sparse"


def test_models_that_it_cannot_decode_are_refused() -> None:
    causal = SPEC.model_copy(
        update={"attention": "block_causal", "block_length": 4, "blocks_from": "canvas"}
    )
    with pytest.raises(ConfigError, match="use 'block_causal'"):
        SparseCache().check_model(causal)
    with pytest.raises(ConfigError, match=r"`cache\.kernel`=4 must be odd"):
        SparseCache(kernel=4).check_model(SPEC)


@pytest.mark.parametrize("fields", [{"ratio": 1.5}, {"ratio": -1}, {"kernel": 0}, {"delay": -1}])
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        SparseCache(**fields)
