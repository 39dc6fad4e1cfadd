from __future__ import annotations

import pytest
import torch

from dllmc.policies.revise.edit import Edit
from dllmc.spec import ConfigError, DenoiserSpec


def test_sure_candidates_replace_committed_tokens() -> None:
    # Probabilities .91, .83, .5.
    assert Edit(threshold=0.8).oracle([0.1, 0.2, 1.0]) == {0, 1}
    assert Edit(threshold=0.5).oracle([1.0]) == set()


def test_a_threshold_of_0_replaces_whatever_has_another_candidate() -> None:
    edit = Edit(threshold=0)
    assert edit.oracle([0.0, 1e30]) == {0, 1}
    limit = torch.tensor([edit.values()["doubt"]])
    changed = torch.tensor([[True, True, False]])
    doubt = torch.tensor([[0.0, 1e30, 1.0]])
    assert edit.select(doubt, changed, {"doubt": limit}).tolist() == [[True, True, False]]


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


@pytest.mark.parametrize("fields", [{"threshold": -0.1}, {"threshold": 2}, {"steps": -1}])
def test_bad_values_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Edit(**fields)  # type: ignore[arg-type]
