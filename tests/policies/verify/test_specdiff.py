from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from lockstep.drawn import EOS, MASK
from lockstep.helped import HELPED, auxiliary, helped

from dllmc.policies.config import DecodingConfig
from dllmc.policies.verify.specdiff import SpecDiff
from dllmc.reference.auxiliary import greedy_continuation
from dllmc.spec import ConfigError, DenoiserSpec

if TYPE_CHECKING:
    from lockstep.drawn import Shape

LENGTH = 12
PROMPT = [5, 6, 7]


def config(block_length: int = 5, **others: Any) -> DecodingConfig:
    schedule = {"kind": "blocks", "block_length": block_length}
    given: dict[str, Any] = {"schedule": schedule, "stop": {"kind": "length"}, **others}
    return DecodingConfig(**given, verify={"kind": "specdiff"})


def prompts(shape: Shape) -> list[list[int]]:
    rng = random.Random(shape.seed)
    return [[rng.randrange(MASK) for _ in range(rng.randint(1, 8))] for _ in range(3)]


def continuation(shape: Shape, prompt: list[int]) -> list[int]:
    padded = helped(shape).spec.prepare_prompt(prompt, LENGTH)
    return greedy_continuation(auxiliary().module, padded, LENGTH, mask_id=MASK)


CONFIGS = [
    config(),
    config(1),
    config(32, commit={"kind": "threshold", "threshold": 0.2}),
    config(7, cache={"kind": "none"}, commit={"kind": "factor"}),
    config(4, cache={"kind": "prefix"}, commit={"kind": "timesteps", "steps": 2}),
    config(6, cache={"kind": "vicinity", "before": 4, "after": 4, "warmup": 1}),
    config(8, cache={"kind": "trailing", "length": 4}, commit={"kind": "leftmost", "tokens": 3}),
    config(5, belief={"kind": "smoothing"}, cache={"kind": "none"}),
]


@pytest.mark.parametrize("each", CONFIGS)
def test_the_output_is_the_greedy_continuation_of_the_auxiliary_model(
    each: DecodingConfig,
) -> None:
    shape = HELPED[0]
    expected = [continuation(shape, prompt) for prompt in prompts(shape)]
    assert len(set(map(tuple, expected))) == 3
    found = helped(shape).generate(prompts(shape), config=each, max_new_tokens=LENGTH)
    assert found.tokens == expected


# With padded prompts, and with shifted logits.
@pytest.mark.parametrize("shape", HELPED[1:], ids=lambda s: str(s.seed))
def test_whatever_the_denoiser_is(shape: Shape) -> None:
    found = helped(shape).generate(prompts(shape), config=CONFIGS[0], max_new_tokens=LENGTH)
    assert found.tokens == [continuation(shape, prompt) for prompt in prompts(shape)]


def test_alone_as_in_a_batch() -> None:
    shape = HELPED[0]
    for prompt in prompts(shape):
        found = helped(shape).generate(prompt, config=config(), max_new_tokens=LENGTH)
        assert found.tokens == continuation(shape, prompt)


def test_it_ends_where_the_auxiliary_model_ends() -> None:
    shape, stop = HELPED[0], {"kind": "eos"}
    expected = {token: continuation(shape, [token]) for token in range(1, MASK)}
    (prompt, told), *_ = ((p, t) for p, t in expected.items() if EOS in t[2:-2])
    found = helped(shape).generate([prompt], config=config(stop=stop), max_new_tokens=LENGTH)
    assert found.tokens == told[: told.index(EOS) + 1]


def test_a_block_of_which_nothing_is_right_still_brings_one_token() -> None:
    # A random denoiser is seldom right: about an evaluation and a judgement for every token.
    found = helped(HELPED[0]).generate(PROMPT, config=config(2), max_new_tokens=LENGTH)
    judged = [step for step in found.trace if step.plan == "auxiliary"]
    assert all(len(step.positions) - len(step.revised) <= 1 for step in judged)
    assert len(judged) <= LENGTH


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"temperature": 0.5}, "use `temperature`=0"),
        ({"schedule": {"kind": "adablock"}}, "the next block begins where"),
        ({"schedule": {"kind": "lookahead"}}, "the next block begins where"),
        ({"schedule": {"kind": "pipeline"}}, "the next block begins where"),
        ({"schedule": {"kind": "whole"}}, "only what is drafted in blocks"),
        ({"commit": {"kind": "quota", "steps": 4}}, "the next block begins where"),
        ({"stop": {"kind": "eot"}}, "only the auxiliary model says"),
        ({"revise": {"kind": "remask"}}, "what was verified stays"),
    ],
)
def test_what_it_does_not_go_with(other: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DecodingConfig(verify={"kind": "specdiff"}, **other)


def test_the_tuner_does_not_try_it() -> None:
    assert not SpecDiff.suits(DenoiserSpec(mask_id=9, vocab_size=10, max_length=64))
