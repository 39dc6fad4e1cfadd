from __future__ import annotations

import pytest
import torch
from rows.made import CANDIDATE, MASK, predictions, rows

from dllmc.policies.revise.edit import Edit
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, DenoiserSpec

PROGRESS = BlockProgress(step=1, masks=8, blocks=1)
OLD = 3  # a token that is no candidate


def revised(edit: Edit, doubts: list[float], tokens: list[int]) -> set[int]:
    """Positions whose token gives way to the candidate, by both sides."""
    asked = predictions(doubts, tokens=tokens)
    replaced, reopened = edit.oracle(asked, set(), PROGRESS, {})
    assert reopened == set()
    having = rows([doubts], tokens=torch.tensor([tokens]))
    values = {"doubt": torch.tensor([edit.values(PROGRESS)["doubt"]])}
    found, revision = edit.select(having, torch.zeros(1, len(tokens)).bool(), values)
    assert found is having
    assert not revision.reopened.any()
    assert {i for i, flag in enumerate(revision.replaced[0].tolist()) if flag} == replaced
    return replaced


def test_sure_candidates_replace_committed_tokens() -> None:
    # Probabilities .91, .83, .5.
    assert revised(Edit(threshold=0.8), [0.1, 0.2, 1.0], [OLD] * 3) == {0, 1}
    assert revised(Edit(threshold=0.5), [1.0, 1.0], [OLD] * 2) == set()


def test_a_threshold_of_0_replaces_whatever_has_another_candidate() -> None:
    assert revised(Edit(threshold=0), [0.0, 1e30, 1.0], [OLD, OLD, CANDIDATE]) == {0, 1}


def test_masks_and_tokens_that_are_the_candidate_stay() -> None:
    assert revised(Edit(threshold=0.8), [0.1, 0.1, 0.1], [MASK, CANDIDATE, OLD]) == {2}


def test_what_was_offered_alone_stays() -> None:
    asked = predictions([0.1], tokens=[OLD])
    assert Edit(threshold=0.8).oracle(asked, set(), PROGRESS, {}) == (set(), set())
    alone = rows([[0.1]], tokens=torch.tensor([[OLD]]), single=torch.tensor([True]))
    values = {"doubt": torch.tensor([0.25])}
    _, revision = Edit(threshold=0.8).select(alone, torch.zeros(1, 1).bool(), values)
    assert not revision.replaced.any()


def test_a_block_is_settled_when_an_evaluation_without_masks_replaces_nothing() -> None:
    edit = Edit(steps=3)
    assert not edit.settled(masks=2, revised=0, unmasked_steps=0)
    assert not edit.settled(masks=0, revised=1, unmasked_steps=1)
    assert edit.settled(masks=0, revised=0, unmasked_steps=1)


def test_or_after_so_many_evaluations() -> None:
    assert Edit(steps=3).settled(masks=0, revised=1, unmasked_steps=3)
    assert Edit(steps=0).settled(masks=2, revised=0, unmasked_steps=0)


def test_the_tuner_tries_it_on_models_trained_for_it() -> None:
    spec = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    assert not Edit.suits(spec)
    assert Edit.suits(spec.model_copy(update={"family": "llada2"}))


@pytest.mark.parametrize(
    "fields", [{"threshold": -0.1}, {"threshold": 2}, {"steps": -1}, {"steps": 4097}]
)
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Edit(**fields)  # type: ignore[arg-type]
