"""Caches of which the salient keys are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from lockstep.compare import Request, finish
from lockstep.drawn import SHAPES, Shape, engine_of, model_of

from dllmc import reference
from dllmc.policies.cache.dual import DualCache
from dllmc.policies.config import DecodingConfig
from dllmc.runtime.kept import _most_salient, kept_count

if TYPE_CHECKING:
    from dllmc.policies.axes import Cache
    from dllmc.runtime.output import Output

FULL, SHIFTED = SHAPES[1], SHAPES[6]
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2, 14, 5, 21]]


class Delayed(DualCache):
    """Everything is evaluated at a block's start and so often again."""

    delay: int = 1

    def refreshes(self, step: int, committed: int) -> bool:
        del committed
        return step <= self.delay


def decode(shape: Shape, cache: Cache | dict[str, Any], number: int | None = None) -> Output:
    prompts: Any = PROMPTS if number is None else PROMPTS[number]
    return engine_of(shape).generate(prompts, config=config_of(cache), max_new_tokens=13)


def config_of(cache: Cache | dict[str, Any]) -> DecodingConfig:
    return DecodingConfig(
        schedule={"kind": "blocks", "block_length": 6},
        commit={"kind": "threshold", "threshold": 0.6},
        cache=cache,
        stop={"kind": "length"},
    )


@pytest.mark.parametrize("delay", [0, 1, 2])
@pytest.mark.parametrize("shape", [FULL, SHIFTED])
def test_where_all_is_kept_it_is_the_dual_cache_with_a_delay(shape: Shape, delay: int) -> None:
    everything = decode(shape, {"kind": "sparse", "ratio": 1.0, "delay": delay})
    dual = decode(shape, Delayed(delay=delay))
    assert (everything.tokens, everything.nfe) == (dual.tokens, dual.nfe)
    rows = [[[step.rows for step in trace] for trace in each.trace] for each in (everything, dual)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("shape", [FULL, SHIFTED])
def test_what_is_kept_is_what_the_reference_keeps(shape: Shape, ratio: float) -> None:
    cache = {"kind": "sparse", "ratio": ratio}
    together = decode(shape, cache)
    for number, prompt in enumerate(PROMPTS):
        expected = reference.generate(model_of(shape), prompt, config_of(cache), max_new_tokens=13)
        assert (together.tokens[number], together.nfe[number]) == (expected.tokens, expected.nfe)
        alone = decode(shape, cache, number)
        assert (alone.tokens, alone.nfe) == (expected.tokens, expected.nfe)


def test_what_is_kept_decides() -> None:
    shares = (0.0, 0.3, 0.7, 1.0)
    found = [decode(FULL, {"kind": "sparse", "ratio": ratio}).tokens for ratio in shares]
    assert len({str(tokens) for tokens in found}) > 1


def test_sequences_that_keep_other_shares_go_together() -> None:
    configs = [config_of({"kind": "sparse", "ratio": ratio}) for ratio in (0.2, 0.5, 0.9)]
    requests = [Request(p, c, 13) for p, c in zip(PROMPTS, configs, strict=True)]
    tokens, _ = finish(engine_of(FULL), requests)
    for prompt, config, found in zip(PROMPTS, configs, tokens, strict=True):
        expected = reference.generate(model_of(FULL), prompt, config, max_new_tokens=13)
        assert found == expected.tokens


def test_the_share_is_rounded_down() -> None:
    assert [kept_count(20, range(6, 12), share) for share in (0, 0.5, 0.99, 1)] == [0, 7, 13, 14]


def kept(scores: list[float], kernel: int, count: int, real: int | None = None) -> list[int]:
    there = torch.arange(len(scores)) < (len(scores) if real is None else real)
    return _most_salient(torch.tensor([scores]), there[None], kernel, count)[0].tolist()


def test_the_most_salient_are_kept() -> None:
    assert kept([0.1, 0.5, -2.0, 0.4, 0.3], 1, 3) == [1, 3, 4]


def test_of_equals_the_lower_positions() -> None:
    assert kept([1.0, 2.0, 1.0, 2.0, 1.0], 1, 3) == [1, 3, 0]


def test_pooling_keeps_neighbours_too() -> None:
    assert kept([0.0, 0.0, 9.0, 0.0, 0.0, 5.0], 3, 4) == [1, 2, 3, 4]
    assert kept([0.0, 0.0, 9.0, 0.0, 0.0, 5.0], 5, 5) == [0, 1, 2, 3, 4]


def test_padding_is_never_kept_and_lends_nothing() -> None:
    assert kept([0.0, 1.0, 9.0, 9.0], 3, 2, real=2) == [0, 1]
    assert kept([-3.0, -1.0, 9.0], 1, 2, real=2) == [1, 0]
