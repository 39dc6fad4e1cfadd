from __future__ import annotations

import pytest

from dllmc.policies.cache.dual import DualCache
from dllmc.policies.standing import Evaluation, Standing
from dllmc.spec import ConfigError, DenoiserSpec

SPEC = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
SHIFTED = SPEC.model_copy(update={"logit_shift": 1})


def test_window_is_the_block() -> None:
    assert DualCache().window((8, 12), 20) == (8, 12)


def test_refresh_is_at_a_blocks_start_and_after_so_many_commits() -> None:
    assert [DualCache().refreshes(step, 100) for step in range(3)] == [True, False, False]
    every = DualCache(refresh_every=4)
    assert [every.refreshes(1, committed) for committed in (3, 4, 5)] == [False, True, True]
    assert every.refreshes(0, 0)


def test_a_refresh_covers_what_the_block_sees_and_a_step_the_window() -> None:
    at_start = Standing((8, 12), (8, 12), (0, 20), 20, 0, 0, 3, True, 0)
    assert DualCache().evaluate(at_start, SPEC) == Evaluation(range(20), range(8, 12), True)
    later = Standing((8, 12), (8, 12), (0, 20), 20, 1, 1, 3, True, 0)
    assert DualCache().evaluate(later, SPEC) == Evaluation(range(8, 12), range(8, 12), False)


def test_with_shifted_logits_a_refresh_commits_the_first_token_alone() -> None:
    at_start = Standing((8, 12), (8, 12), (0, 20), 20, 0, 0, 3, True, 0)
    assert DualCache().evaluate(at_start, SHIFTED).head == range(8, 9)
    assert DualCache(refresh_commits="policy").evaluate(at_start, SHIFTED).head == range(8, 12)


def test_carrying_is_for_shifted_logits() -> None:
    DualCache(window_first="carried").check_model(SHIFTED)
    with pytest.raises(ConfigError, match=r"`cache\.window_first`='carried'.* use 'self'"):
        DualCache(window_first="carried").check_model(SPEC)


def test_committing_first_only_is_for_shifted_logits() -> None:
    for refresh_commits in ("auto", "policy"):
        DualCache(refresh_commits=refresh_commits).check_model(SPEC)
    first = DualCache(refresh_commits="first")
    first.check_model(SHIFTED)
    with pytest.raises(ConfigError, match=r"`cache\.refresh_commits`='first'.* use 'auto'"):
        first.check_model(SPEC)


@pytest.mark.parametrize(
    "fields",
    [
        {"refresh_every": 0},
        {"refresh_every": 1.5},
        {"refresh_commits": "last"},
        {"window_first": "no"},
    ],
)
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        DualCache(**fields)


def test_refresh_period_is_tuned() -> None:
    knob = DualCache.knobs()["refresh_every"]
    assert (knob.choices, knob.lossy, knob.structural) == ((None, 2, 4, 8, 16), True, False)
