from __future__ import annotations

import pytest
from golden.fast_dllm import load

from dllmc import reference
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE
from dllmc.spec import PromptError

PROMPTS = [[4, 9, 2, 11], [7], [3, 3, 8]]


def test_output_counts_and_traces_every_evaluation() -> None:
    model = load()[0][0]
    output = reference.generate(model, PROMPTS[0], SPEED_BASELINE, max_new_tokens=40)
    assert output.nfe == len(output.trace)
    assert model.spec.mask_id not in output.tokens


def test_response_is_32_tokens_by_default() -> None:
    config = QUALITY_REFERENCE.replace(stop={"kind": "length"})
    output = reference.generate(load()[0][0], PROMPTS[0], config)
    assert (len(output.tokens), output.nfe) == (32, 32)


def test_list_of_prompts_is_decoded_one_by_one_each_with_its_own_noise() -> None:
    model = load()[0][0]
    config = SPEED_BASELINE.replace(temperature=0.7, seed=3)
    together = reference.generate(model, PROMPTS, config, max_new_tokens=12, stream=5)
    alone = [
        reference.generate(model, prompt, config, max_new_tokens=12, stream=5 + index)
        for index, prompt in enumerate(PROMPTS)
    ]
    assert together == alone


@pytest.mark.parametrize("prompt", [[], [[1], []]])
def test_empty_prompt_is_refused(prompt: list[int] | list[list[int]]) -> None:
    with pytest.raises(PromptError, match="the prompt is empty"):
        reference.generate(load()[0][0], prompt, SPEED_BASELINE)
