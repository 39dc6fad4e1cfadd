from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from golden.fast_dllm import load
from torch import Tensor, nn

from dllmc.policies.config import DecodingConfig
from dllmc.reference import ReferenceDecoder
from dllmc.reference.noise import gumbel
from dllmc.spec import ConfigError, DenoiserSpec, PromptError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.reference import StepTrace

VOCAB, MASK, EOS, PAD = 10, 9, 8, 7
SPEC = DenoiserSpec(mask_id=MASK, vocab_size=VOCAB, max_length=64, eos_ids=(EOS,))
PROMPT = [1, 2, 3]


class Scripted(nn.Module):
    """Logits that depend on nothing but the position: 0 where nothing else is said."""

    def __init__(self, logits: Mapping[int, Mapping[int, float]]) -> None:
        super().__init__()
        table = torch.zeros(SPEC.max_length, VOCAB, dtype=torch.float64)
        self.logits = nn.Parameter(table, requires_grad=False)
        for position, values in logits.items():
            for token, value in values.items():
                self.logits[position, token] = value

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits[None, : tokens.shape[1]]


def configured(block_length: int = 4, **axes: Any) -> DecodingConfig:
    blocks = {"kind": "blocks", "block_length": block_length}
    return DecodingConfig(**({"schedule": blocks, "cache": {"kind": "none"}} | axes))


def scripted(
    logits: Mapping[int, Mapping[int, float]], config: DecodingConfig, length: int
) -> ReferenceDecoder:
    return ReferenceDecoder(Scripted(logits), SPEC, PROMPT, config, length)


def finish(decoder: ReferenceDecoder) -> list[StepTrace]:
    trace = []
    while not decoder.done:
        trace.append(decoder.step())
    return trace


def real(config: DecodingConfig, length: int, stream: int = 0) -> ReferenceDecoder:
    model = load()[0][1]
    return ReferenceDecoder(model.module, model.spec, [4, 9, 2, 11], config, length, stream)


def test_canvas_is_the_prompt_and_masks() -> None:
    decoder = scripted({}, configured(), 5)
    assert decoder.canvas == [1, 2, 3, MASK, MASK, MASK, MASK, MASK]
    assert (decoder.done, decoder.nfe) == (False, 0)


def test_prompt_is_padded_to_its_slots() -> None:
    spec = SPEC.model_copy(update={"prompt_slots": 5, "pad_id": PAD})
    decoder = ReferenceDecoder(Scripted({}), spec, PROMPT, configured(), 2)
    assert decoder.canvas == [1, 2, 3, PAD, PAD, MASK, MASK]
    assert decoder.step().eligible == (5, 6)


def test_surest_first_and_blocks_from_left_to_right() -> None:
    logits = {3: {1: 1.0}, 4: {2: 2.0}, 5: {3: 9.0}, 6: {4: 8.0}, 7: {5: 7.0}}
    trace = finish(scripted(logits, configured(2, commit={"kind": "quota"}), 5))
    assert [step.block for step in trace] == [(3, 5), (3, 5), (5, 7), (5, 7), (7, 8)]
    assert [step.eligible for step in trace] == [(3, 4), (3,), (5, 6), (6,), (7,)]
    assert [step.committed for step in trace] == [
        ((4, 2),),
        ((3, 1),),
        ((5, 3),),
        ((6, 4),),
        ((7, 5),),
    ]


def test_doubt_is_the_mass_of_the_other_tokens_with_the_mask_among_them() -> None:
    step = scripted({3: {5: 2.0, MASK: 3.0}}, configured(), 1).step()
    assert step.candidates == (5,)
    assert step.logits == (2.0,)
    assert step.margins == (2.0,)
    assert step.doubts == pytest.approx([8 * np.exp(-2) + np.exp(1)], rel=1e-15)


def test_equal_logits_go_to_the_lowest_token_and_equal_doubts_to_the_lowest_position() -> None:
    step = scripted({4: {2: 1.0, 6: 1.0}, 5: {6: 1.0, 2: 1.0}}, configured(), 4).step()
    assert step.candidates == (0, 2, 2, 0)
    assert step.margins == (0, 0, 0, 0)
    assert step.committed == ((4, 2),)


def test_infinite_doubt_still_commits() -> None:
    logits = {position: {MASK: 1e4} for position in (3, 4)}
    trace = finish(scripted(logits, configured(), 2))
    assert [step.doubts for step in trace] == [(np.inf, np.inf), (np.inf,)]
    assert [step.committed for step in trace] == [((3, 0),), ((4, 0),)]


def test_all_rows_over_the_threshold_commit_together() -> None:
    logits = {3: {1: 9.0}, 4: {2: 0.5}, 5: {3: 9.0}}
    trace = finish(scripted(logits, configured(), 3))
    assert [step.committed for step in trace] == [((3, 1), (5, 3)), ((4, 2),)]


def test_quota_counts_steps_and_masks_of_each_block() -> None:
    config = configured(5, commit={"kind": "quota", "steps": 4})
    trace = finish(scripted({}, config, 8))
    assert [len(step.committed) for step in trace] == [3, 2, 2, 1]


def test_eos_ends_the_row_and_later_tokens_are_dropped() -> None:
    logits = {3: {1: 9.0}, 4: {EOS: 9.0}, 6: {2: 9.0}}
    decoder = scripted(logits, configured(), 8)
    trace = finish(decoder)
    assert [step.committed for step in trace] == [((3, 1), (4, EOS), (6, 2))]
    assert decoder.output == [1, EOS]
    assert decoder.canvas[5] == MASK


def test_eos_after_a_mask_ends_nothing() -> None:
    logits = {3: {1: 1.0}, 4: {EOS: 9.0}, 5: {EOS: 9.0}}
    decoder = scripted(logits, configured(), 8)
    trace = finish(decoder)
    assert [step.committed for step in trace] == [((4, EOS), (5, EOS)), ((3, 1),)]
    assert decoder.output == [1, EOS]


def test_any_end_token_ends() -> None:
    spec = SPEC.model_copy(update={"eos_ids": (EOS, 4)})
    decoder = ReferenceDecoder(Scripted({3: {4: 9.0}}), spec, PROMPT, configured(), 8)
    finish(decoder)
    assert (decoder.output, decoder.nfe) == ([4], 1)


def test_length_stop_decodes_on_and_keeps_everything() -> None:
    logits = {3: {EOS: 9.0}, 4: {1: 9.0}, 5: {2: 9.0}}
    decoder = scripted(logits, configured(2, stop={"kind": "length"}), 3)
    assert len(finish(decoder)) == 2
    assert decoder.output == [EOS, 1, 2]


@pytest.mark.parametrize(
    ("cache", "evaluated"),
    [
        ("none", [range(12)] * 5),
        ("prefix", [range(12), range(4, 12), range(4, 12), range(12), range(7, 12)]),
        ("dual", [range(12), range(4, 7), range(4, 7), range(12), range(7, 10)]),
    ],
)
def test_rows_evaluated(cache: str, evaluated: list[range]) -> None:
    config = configured(3, commit={"kind": "quota"}, cache={"kind": cache})
    decoder = real(config, 8)
    trace = [decoder.step() for _ in evaluated]
    assert [step.evaluated for step in trace] == [tuple(rows) for rows in evaluated]
    # Without a cache there is nothing older than the evaluation itself.
    renewed = [True] * 5 if cache == "none" else [True, False, False, True, False]
    assert [step.refresh for step in trace] == renewed
    assert decoder.nfe == 5


def test_refresh_after_so_many_commits_counts_those_of_the_refresh() -> None:
    cache = {"kind": "dual", "refresh_every": 3}
    decoder = real(configured(8, commit={"kind": "quota"}, cache=cache), 16)
    refreshes = [step.refresh for step in finish(decoder)]
    assert refreshes == [True, False, False, True, False, False, True, False] * 2


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_refresh_at_every_step_is_no_cache(cache: str) -> None:
    plain = real(configured(8, stop={"kind": "length"}), 24)
    refreshed = real(
        configured(8, stop={"kind": "length"}, cache={"kind": cache, "refresh_every": 1}), 24
    )
    cached = real(configured(8, stop={"kind": "length"}, cache={"kind": cache}), 24)
    for decoder in (plain, refreshed, cached):
        finish(decoder)
    assert (refreshed.canvas, refreshed.nfe) == (plain.canvas, plain.nfe)
    assert cached.canvas != plain.canvas


def test_sampled_candidate_is_the_best_after_noise_and_its_doubt_is_of_the_logits() -> None:
    values = np.linspace(-1, 1, VOCAB)
    logits = {p: dict(enumerate(values)) for p in range(3, 11)}
    config = configured(temperature=1.5, seed=11, stop={"kind": "length"})
    decoder = ReferenceDecoder(Scripted(logits), SPEC, PROMPT, config, 8, stream=2)
    others = 0
    while not decoder.done:
        nfe = decoder.nfe
        step = decoder.step()
        for position, candidate, margin, doubt in zip(
            step.eligible, step.candidates, step.margins, step.doubts, strict=True
        ):
            noised = (values + 1.5 * gumbel(11, 2, position, nfe, VOCAB))[:MASK]
            assert candidate == noised.argmax()
            assert margin == pytest.approx(np.diff(np.sort(noised))[-1])
            assert doubt == pytest.approx(np.exp(values - values[candidate]).sum() - 1)
            others += candidate != values[:MASK].argmax()
    assert others > 5


def test_sampling_repeats_with_its_seed_and_stream_only() -> None:
    def decoded(seed: int, stream: int) -> list[int]:
        config = configured(8, temperature=1.0, seed=seed, stop={"kind": "length"})
        decoder = real(config, 16, stream)
        finish(decoder)
        return decoder.output

    assert decoded(1, 0) == decoded(1, 0)
    assert decoded(1, 0) != decoded(2, 0)
    assert decoded(1, 0) != decoded(1, 1)


def test_following_commits_what_the_other_committed() -> None:
    config = configured(4)
    leader = scripted({3: {1: 9.0}, 4: {2: 8.0}}, config, 4)
    follower = scripted({6: {5: 9.0}}, config, 4)
    led = leader.step()
    followed = follower.step(follow=led)
    assert led.committed == ((3, 1), (4, 2))
    assert followed.committed == ((6, 5),)
    assert follower.canvas == leader.canvas
    assert follower.step(follow=leader.step()).eligible == (5, 6)


@pytest.mark.parametrize(
    ("changes", "axes", "message"),
    [
        ({}, {"cache": {"kind": "block_causal"}}, "`cache.kind`='block_causal'"),
        ({}, {"commit": {"kind": "quota", "steps": 3}}, "`commit.steps`=3 does not divide"),
        (
            {},
            {"cache": {"kind": "dual", "refresh_commits": "first"}},
            "`cache.refresh_commits`='first'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], axes: dict[str, Any], message: str
) -> None:
    spec = DenoiserSpec(**(SPEC.model_dump() | changes))
    with pytest.raises(ConfigError, match=message):
        ReferenceDecoder(Scripted({}), spec, PROMPT, configured(4, **axes), 8)


def test_bad_prompt_is_refused() -> None:
    with pytest.raises(PromptError, match="contains the mask token 9 at position 1"):
        ReferenceDecoder(Scripted({}), SPEC, [1, MASK], configured(), 8)


def test_cache_over_attention_that_cannot_be_followed_is_refused() -> None:
    config = configured(cache={"kind": "dual"})
    with pytest.raises(ConfigError, match=r"use `cache\.kind`='none'"):
        ReferenceDecoder(Scripted({}), SPEC, PROMPT, config, 8).step()
