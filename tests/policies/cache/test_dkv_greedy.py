from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dllmc.policies.cache.dkv import DkvCache
from dllmc.policies.cache.dkv_greedy import GreedyDkvCache
from dllmc.policies.cache.none import NoCache
from dllmc.policies.config import DecodingConfig
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
SHIFTED = SPEC.model_copy(update={"logit_shift": 1})
# A prompt of 4; the block (4, 10) has decoded 4 and, in the last evaluation, 7: now comes 6.
LATER = Standing(
    *((4, 10), (4, 10), (0, 14), 14, 3, 3, 2, False, 0),
    since_refresh=1,
    prompt=4,
    masked=frozenset({5, 6, 8, 9, 10, 11, 12, 13}),
    was_masked=frozenset({5, 6, 7, 8, 9, 10, 11, 12, 13}),
    evaluations=3,
    coming=(6,),
)
FULL = Evaluation(range(14), range(4, 10), True)
FOLLOWS: dict[str, Any] = {"cache": {"kind": "dkv_greedy"}, "score": {"kind": "order"}}
QUOTA: dict[str, Any] = {"commit": {"kind": "quota"}}


def rows(window: int, standing: Standing = LATER, spec: DenoiserSpec = SPEC) -> list[int]:
    policy = GreedyDkvCache(refresh_every=None, window=window)
    found = policy.evaluate(standing, spec)
    assert policy.oracle(standing, spec) == (set(found.rows), set(found.head), False)
    return list(found.rows)


def test_what_commits_and_what_just_did_are_evaluated() -> None:
    found = GreedyDkvCache(refresh_every=None, window=0).evaluate(LATER, SPEC)
    assert found == Evaluation((6, 7), (6,), False)


def test_a_window_holds_the_nearest_masks_those_before_first() -> None:
    assert [rows(window) for window in range(4)] == [
        [6, 7],
        [5, 6, 7],
        [5, 6, 7, 8],
        [5, 6, 7, 8, 9],
    ]
    # Of 4 and 8, which are as near, the one before it.
    assert rows(2, replace(LATER, masked=LATER.masked | {4})) == [4, 5, 6, 7]


def test_each_row_that_commits_has_a_window_in_the_order_of_commits() -> None:
    assert rows(1, replace(LATER, coming=(9, 6))) == [5, 6, 7, 8, 9]
    # 9 is nearest to 8, and the second takes what the first has left.
    first, second = replace(LATER, coming=(8, 10)), replace(LATER, coming=(10, 8))
    assert rows(1, first) == [7, 8, 9, 10, 11]
    assert rows(1, second) == [6, 7, 8, 9, 10]


def test_the_window_ends_where_the_block_can_see_no_more() -> None:
    near = replace(LATER, outer=(0, 10), reach=10)
    assert rows(20, near) == [5, 6, 7, 8, 9]


def test_a_window_as_wide_as_the_canvas_evaluates_what_dkv_does() -> None:
    wide = GreedyDkvCache(refresh_every=4, window=14)
    plain = DkvCache(refresh_every=4, counts="steps")
    for step in range(2, 9):
        standing = replace(LATER, step=step)
        found, other = wide.evaluate(standing, SPEC), plain.evaluate(standing, SPEC)
        assert (found.rows, found.refresh) == (other.rows, other.refresh)


def test_refreshing_at_every_step_is_no_cache() -> None:
    policy = GreedyDkvCache(refresh_every=1)
    for step in range(4):
        standing = replace(LATER, step=step)
        assert policy.evaluate(standing, SPEC) == NoCache().evaluate(standing, SPEC) == FULL


def test_it_refreshes_at_the_start_of_a_block_and_every_so_many_evaluations() -> None:
    for every, expected in ((3, [True, False, False, True, False]), (None, [True] + [False] * 4)):
        policy = GreedyDkvCache(refresh_every=every)
        found = [policy.evaluate(replace(LATER, step=step), SPEC) for step in range(5)]
        assert [each.refresh for each in found] == expected
        assert all(each == FULL for each in found if each.refresh)


def test_rows_that_predict_what_commits_are_evaluated_too() -> None:
    assert rows(0, replace(LATER, coming=(6, 9)), SHIFTED) == [5, 6, 7, 8, 9]


def test_tokens_beyond_a_cut_are_forgotten() -> None:
    cut = replace(LATER, reach=7, was_masked=LATER.was_masked, masked=frozenset({5, 6}))
    assert rows(4, cut) == [5, 6]


def test_it_follows_a_given_order() -> None:
    for commit in ({"kind": "quota", "steps": 4}, {"kind": "leftmost", "tokens": 2}):
        DecodingConfig(**FOLLOWS, commit=commit)
    with pytest.raises(ConfigError, match="'order'"):
        DecodingConfig(cache={"kind": "dkv_greedy"}, **QUOTA)
    with pytest.raises(ConfigError, match="'quota' or 'leftmost'"):
        DecodingConfig(**FOLLOWS, commit={"kind": "timesteps"})


@pytest.mark.parametrize(
    ("axis", "kind", "reason"),
    [
        ("revise", "edit", "does not evaluate these"),
        ("revise", "remask", "does not evaluate these"),
        ("schedule", "lookahead", "just reached"),
        ("schedule", "pipeline", "just begun"),
        ("stop", "kl", "a part of it"),
        ("verify", "self_speculation", "on keys that the steps between them"),
    ],
)
def test_what_asks_for_other_rows_is_refused(axis: str, kind: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        DecodingConfig(**FOLLOWS, **QUOTA, **{axis: {"kind": kind}})


@pytest.mark.parametrize("fields", [{"refresh_every": 0}, {"window": -1}])
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        GreedyDkvCache(**fields)


def test_the_tuner_leaves_it_out() -> None:
    assert not GreedyDkvCache.suits(SPEC)
