from __future__ import annotations

import pytest
from rows.made import predictions

from dllmc.policies.commit.timesteps import Timesteps
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, DenoiserSpec


def counts(policy: Timesteps, masks: int) -> list[int]:
    found, remaining, step = [], masks, 0
    while remaining:
        found.append(policy.count(BlockProgress(step, masks, 1, remaining, masks)))
        remaining, step = remaining - found[-1], step + 1
    return found


def test_counts_follow_the_published_schedule() -> None:
    # int(16 * (1 - s / t)) over linspace(1, 1e-3, steps + 1), worked out by hand.
    assert counts(Timesteps(steps=4), 16) == [3, 4, 4, 5]
    assert counts(Timesteps(steps=1), 16) == [16]


def test_as_many_steps_as_masks_wait_at_first() -> None:
    # int(4 * 0.24975) is 0: the published loop evaluates and commits nothing.
    assert counts(Timesteps(), 4)[0] == 0
    assert Timesteps.may_wait


def test_the_last_step_commits_what_is_left() -> None:
    policy = Timesteps(steps=3)
    assert policy.count(BlockProgress(2, 8, 1, 5, 8)) == 5
    asked = predictions([0.3, 0.1, 0.2])
    assert policy.oracle(asked, BlockProgress(2, 8, 1, 3, 8)) == {0, 1, 2}


def test_the_tuner_tries_it_on_models_with_shifted_logits() -> None:
    spec = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    assert not Timesteps.suits(spec)
    assert Timesteps.suits(spec.model_copy(update={"logit_shift": 1}))


@pytest.mark.parametrize("fields", [{"steps": 0}, {"steps": 4097}, {"eps": 0}, {"eps": 1}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Timesteps(**fields)  # type: ignore[arg-type]
