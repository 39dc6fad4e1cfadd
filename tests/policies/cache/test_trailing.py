from __future__ import annotations

from dataclasses import replace

import pytest

from dllmc.policies.cache.none import NoCache
from dllmc.policies.cache.trailing import TrailingCache
from dllmc.policies.config import DecodingConfig
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
# The last evaluation began with position 8 and committed 3 tokens.
LATER = Standing(
    (11, 20), (11, 20), (0, 20), 20, 1, 1, 3, True, 0,
    masked=frozenset(range(11, 32)), was_masked=frozenset(range(8, 32)), evaluations=1,
)  # fmt: skip


@pytest.mark.parametrize(("length", "start"), [(0, 9), (1, 8), (2, 7), (4, 5), (16, 0)])
def test_so_many_rows_end_with_the_first_that_was_masked(length: int, start: int) -> None:
    found = TrailingCache(length=length).evaluate(LATER, SPEC)
    assert found == Evaluation(range(start, 20), tuple(range(11, 20)), False)


def test_the_first_evaluation_covers_the_window_and_all_before_it() -> None:
    found = TrailingCache(length=1).evaluate(replace(LATER, evaluations=0), SPEC)
    assert found == Evaluation(range(20), tuple(range(11, 20)), True)


def test_of_unlimited_length_it_caches_nothing() -> None:
    found = TrailingCache(length=None).evaluate(LATER, SPEC)
    assert (found.rows, found.refresh) == (NoCache().evaluate(LATER, SPEC).rows, True)


def test_what_is_still_masked_is_evaluated() -> None:
    # A commit elsewhere leaves the first masked row as it was.
    standing = replace(LATER, masked=LATER.was_masked - {15}, block=(8, 20))
    assert TrailingCache(length=0).evaluate(standing, SPEC).rows == range(8, 20)


def test_a_model_with_blocks_of_attention_is_refused() -> None:
    spec = SPEC.model_copy(update={"attention": "block_causal", "block_length": 8})
    with pytest.raises(ConfigError, match=r"'trailing' is for full attention.*'block_causal'"):
        TrailingCache().check_model(spec)


@pytest.mark.parametrize(
    "other",
    [
        {"revise": {"kind": "remask"}},
        {"schedule": {"kind": "pipeline"}},
        {"verify": {"kind": "self_speculation"}},
    ],
)
def test_what_it_does_not_go_with(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DecodingConfig(cache={"kind": "trailing"}, **other)


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="`length`=-1"):
        TrailingCache(length=-1)
