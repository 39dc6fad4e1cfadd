from __future__ import annotations

from typing import Any

import pytest

from dllmc.spec import DenoiserSpec, PromptError

MASK, EOS, PAD = 9, 8, 7
FIELDS: dict[str, Any] = {"mask_id": MASK, "vocab_size": 10, "max_length": 16, "eos_ids": (EOS,)}
SPEC = DenoiserSpec(**FIELDS)
SLOTTED = DenoiserSpec(**FIELDS, prompt_slots=6, pad_id=PAD)


def test_prompt_stands_as_it_is_without_slots() -> None:
    assert SPEC.prepare_prompt((1, 2, EOS), 13) == [1, 2, EOS]


def test_prompt_is_padded_to_its_slots() -> None:
    assert SLOTTED.prepare_prompt([1, 2], 10) == [1, 2, PAD, PAD, PAD, PAD]
    assert SLOTTED.prepare_prompt([1] * 6, 10) == [1] * 6


@pytest.mark.parametrize(
    ("spec", "prompt", "max_new_tokens", "message"),
    [
        (SPEC, [], 4, "the prompt is empty; give at least one token"),
        (SPEC, [1], 0, "`max_new_tokens`=0 must be at least 1"),
        (
            SPEC,
            [1, 10],
            4,
            "token 10 at position 1 of the prompt is not in the vocabulary of 10 tokens",
        ),
        (
            SPEC,
            [-1],
            4,
            "token -1 at position 0 of the prompt is not in the vocabulary of 10 tokens",
        ),
        (
            SPEC,
            [1, 2, MASK],
            4,
            "the prompt contains the mask token 9 at position 2; only the response may be masked, "
            "remove it",
        ),
        (
            SLOTTED,
            [1] * 7,
            4,
            "the prompt has 7 tokens and the model has 6 prompt slots; shorten it",
        ),
        (
            SPEC,
            [1] * 4,
            13,
            "4 prompt tokens and `max_new_tokens`=13 exceed the model's maximum of 16; shorten "
            "the prompt or ask for at most 12 tokens",
        ),
        (
            SLOTTED,
            [1],
            11,
            "6 prompt tokens and `max_new_tokens`=11 exceed the model's maximum of 16; ask for at "
            "most 10 tokens",
        ),
        (
            SPEC,
            [1] * 16,
            1,
            "16 prompt tokens and `max_new_tokens`=1 exceed the model's maximum of 16; shorten "
            "the prompt",
        ),
    ],
)
def test_bad_prompt_is_refused_in_one_line(
    spec: DenoiserSpec, prompt: list[int], max_new_tokens: int, message: str
) -> None:
    with pytest.raises(PromptError) as caught:
        spec.prepare_prompt(prompt, max_new_tokens)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_id": 10}, "`mask_id`=10 must be under `vocab_size`=10"),
        ({"eos_ids": (8, 12)}, r"`eos_ids\[1\]`=12 must be under"),
        ({"pad_id": 11, "prompt_slots": 4}, "`pad_id`=11 must be under"),
        ({"attention": "causal"}, "only role='auxiliary' may be causal"),
        ({"attention": "block_causal"}, "`block_length` goes with"),
        ({"block_length": 4}, "`block_length` goes with"),
        ({"prompt_slots": 4}, "`prompt_slots` and `pad_id` go together"),
        ({"pad_id": 4}, "`prompt_slots` and `pad_id` go together"),
        ({"prompt_slots": 16, "pad_id": 4}, "`prompt_slots`=16 must be under `max_length`=16"),
        ({"maskid": 3}, "maskid"),
    ],
)
def test_contradictory_spec_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenoiserSpec(**(FIELDS | changes))


def test_causal_is_for_auxiliary_models() -> None:
    assert DenoiserSpec(**FIELDS, attention="causal", role="auxiliary").attention == "causal"


def test_spec_comes_back_from_json() -> None:
    assert DenoiserSpec.model_validate_json(SLOTTED.model_dump_json()) == SLOTTED
