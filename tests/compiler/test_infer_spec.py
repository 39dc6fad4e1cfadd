from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from graphs.toys import LONGEST, MASK, SPEC, VOCAB, Toy

from dllmc.compiler import adapt
from dllmc.spec import DenoiserSpec, UsageError


def spec_of(config: Any = None, given: Any = None, **others: Any) -> DenoiserSpec:
    module = Toy()
    if config is not None:
        module.config = config
    for name, value in others.items():
        setattr(module, name, value)
    return adapt(module, given).spec


def config(**changes: Any) -> Any:
    keys = {"mask_token_id": MASK, "max_position_embeddings": LONGEST, "eos_token_id": 0} | changes
    return SimpleNamespace(**keys)


def test_a_published_configuration_is_read() -> None:
    assert spec_of(config()) == SPEC


def test_keys_are_read_as_attributes_are() -> None:
    assert spec_of(vars(config())) == SPEC


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        ({"mask_id": 3, "mask_token_id": None}, "mask_id", 3),
        ({"max_sequence_length": 20}, "max_length", 20),
        ({"eos_token_id": [2, 4, 2]}, "eos_ids", (2, 4)),
        ({"eos_token_id": None}, "eos_ids", ()),
        ({"vocab_size": 9}, "vocab_size", VOCAB),
        ({"model_type": "LLaDA"}, "family", "llada"),
        ({"model_type": "LLaDA"}, "logit_shift", 0),
        ({"model_type": "Dream"}, "logit_shift", 1),
        ({"model_type": "Fast_dLLM_Qwen"}, "logit_shift", 1),
        ({"block_size": 4}, "block_length", 4),
        ({"block_length": 8}, "attention", "block_causal"),
    ],
    ids=str,
)
def test_what_each_key_says(keys: dict[str, Any], field: str, value: object) -> None:
    assert getattr(spec_of(config(**keys)), field) == value


def test_the_generation_config_adds_to_it() -> None:
    more = SimpleNamespace(mask_token_id=5, eos_token_id=[0, 7])
    spec = spec_of(config(mask_token_id=None), generation_config=more)
    assert (spec.mask_id, spec.eos_ids) == (5, (0, 7))


def test_what_is_given_wins_over_the_configuration() -> None:
    spec = spec_of(config(model_type="Dream"), {"logit_shift": 0, "eos_ids": [3]})
    assert (spec.logit_shift, spec.eos_ids, spec.mask_id) == (0, (3,), MASK)


def test_a_whole_spec_is_taken_as_it_is() -> None:
    assert spec_of(config(eos_token_id=5, block_size=4), SPEC) is SPEC


def test_what_the_configuration_does_not_tell_is_asked_for() -> None:
    with pytest.raises(UsageError) as caught:
        spec_of()
    assert str(caught.value) == (
        "the configuration of Toy does not tell `mask_id` (the token id of [MASK]) and "
        '`max_length` (the longest canvas in tokens); give `spec`={"mask_id": ..., '
        '"max_length": ...}, or a whole DenoiserSpec'
    )
    with pytest.raises(UsageError, match=r"does not tell `max_length` \(the longest canvas"):
        spec_of(given={"mask_id": 3})


def test_what_is_missing_may_be_given() -> None:
    expected = SPEC.model_copy(update={"eos_ids": ()})
    assert spec_of(given={"mask_id": MASK, "max_length": LONGEST}) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": 3}, "`spec` has no field `mask`; did you mean `mask_id`"),
        ({"mask_id": VOCAB}, f"`mask_id`={VOCAB} must be under `vocab_size`={VOCAB}"),
        ({"mask_id": -1}, "`mask_id`=-1: Input should be greater than or equal to 0"),
        ({"max_length": 0}, "`max_length`=0: Input should be greater"),
        ({"vocab_size": 40}, f"`vocab_size`=40 does not fit Toy, whose logits are {VOCAB} wide"),
        (SPEC.model_copy(update={"vocab_size": 99}), "`vocab_size`=99 does not fit Toy"),
    ],
    ids=str,
)
def test_wrong_fields_are_refused_by_name(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        spec_of(config(), given)
    assert "\n" not in str(caught.value)
