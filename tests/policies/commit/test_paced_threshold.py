from __future__ import annotations

import pytest
import torch
from rows.made import predictions, rows

from dllmc.policies.commit.paced_threshold import PacedThreshold
from dllmc.policies.progress import commit_oracle, commit_rows
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, DenoiserSpec


def decided(probabilities: list[float], step: int, masks: int = 8, steps: int = 4) -> set[int]:
    """Of a block of `masks` positions, of which these are left."""
    policy = PacedThreshold(threshold=0.8, steps=steps)
    doubts = [(1 - p) / p for p in probabilities]
    progress = BlockProgress(step=step, masks=masks, blocks=1, remaining=len(doubts))
    values = {name: torch.tensor([v]) for name, v in policy.values(progress).items()}
    committed = commit_rows(policy, rows([doubts]), values)[0].nonzero().flatten().tolist()
    assert commit_oracle(policy, predictions(doubts), progress) == set(committed)
    return set(committed)


def test_of_the_sure_as_many_as_planned_commit() -> None:
    sure = [0.9, 0.95, 0.85, 0.99, 0.97, 0.9, 0.9, 0.9]
    assert decided(sure, step=0) == {3, 4}
    assert decided(sure[:6], step=1) == {3, 4}


def test_what_falls_behind_is_made_up_for() -> None:
    # After two evaluations 4 of the 8 may be committed; so far one is.
    assert decided([0.9, 0.95, 0.85, 0.99, 0.97, 0.9, 0.9], step=1) == {1, 3, 4}


def test_only_the_sure_commit_but_at_least_one() -> None:
    assert decided([0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7], step=1) == {0}
    assert decided([0.7, 0.75, 0.7], step=2) == {1}


def test_after_the_planned_evaluations_all_that_are_sure_commit() -> None:
    assert decided([0.9, 0.7, 0.9], step=3) == {0, 2}
    assert decided([0.9, 0.7, 0.9], step=9) == {0, 2}


def test_of_steps_that_do_not_divide_the_later_do_more() -> None:
    assert [
        len(decided([0.9] * left, step, masks=5, steps=3)) for step, left in enumerate((5, 4, 2))
    ] == [1, 2, 2]


def test_the_tuner_tries_it_on_models_with_shifted_logits() -> None:
    spec = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    assert not PacedThreshold.suits(spec)
    assert PacedThreshold.suits(spec.model_copy(update={"logit_shift": 1}))


@pytest.mark.parametrize("fields", [{"threshold": 0}, {"steps": 0}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        PacedThreshold(**fields)  # type: ignore[arg-type]
