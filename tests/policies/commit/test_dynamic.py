from __future__ import annotations

import pytest
from rows.made import predictions

from dllmc.policies.commit.dynamic import Dynamic
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, DenoiserSpec


def at(step: int, *, masks: int = 8, length: int = 8) -> BlockProgress:
    return BlockProgress(step, masks, 1, masks, length)


def test_all_that_is_sure_if_that_reaches_the_quota() -> None:
    policy = Dynamic(threshold=0.8, steps=4)
    # Probabilities .91, .83, .5, .95.
    assert policy.oracle(predictions([0.1, 0.2, 1.0, 0.05]), at(0)) == {0, 1, 3}


def test_else_the_quota() -> None:
    policy = Dynamic(threshold=0.9, steps=2)
    assert policy.oracle(predictions([0.1, 0.2, 1.0, 0.05, 3.0]), at(0)) == {0, 1, 3, 2}


def test_the_threshold_itself_is_not_enough() -> None:
    assert Dynamic(threshold=0.5).oracle(predictions([0.9, 1.0, 0.99]), at(0)) == {0, 2}


def test_the_quota_is_of_the_whole_block_the_prompts_part_included() -> None:
    policy = Dynamic(steps=3)
    assert [policy.count(at(step, masks=2)) for step in range(3)] == [3, 3, 2]
    assert Dynamic().count(at(0)) == 1


def test_the_tuner_tries_it_on_block_causal_models() -> None:
    full = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    assert not Dynamic.suits(full)
    changes = {"attention": "block_causal", "block_length": 8}
    assert Dynamic.suits(full.model_copy(update=changes))


@pytest.mark.parametrize("fields", [{"threshold": 0}, {"threshold": 1.5}, {"steps": 0}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Dynamic(**fields)  # type: ignore[arg-type]
