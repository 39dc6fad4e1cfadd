from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graphs.toys import SPEC, Toy
from torch import Tensor

import dllmc
from dllmc.policies.config import DecodingConfig
from dllmc.spec import ConfigError

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8]]
BLOCKS = {"attention": "block_causal", "block_length": 4, "blocks_from": "response"}


class WrittenOut(Toy):
    """Attention as products and a softmax."""

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        shares = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
        return (shares @ v).transpose(1, 2).reshape(x.shape)


def cached(kind: str) -> DecodingConfig:
    return DecodingConfig(
        cache={"kind": kind},
        schedule={"kind": "blocks", "block_length": 5},
        commit={"kind": "threshold", "threshold": 0.12},
        stop={"kind": "length"},
    )


def test_the_canonical_graph_computes_the_same() -> None:
    module = WrittenOut()
    tokens = torch.arange(18).reshape(2, 9) % 12
    model = dllmc.adapt(module, spec=SPEC, canonical=True)
    torch.testing.assert_close(model.module(tokens), module(tokens), rtol=1e-12, atol=1e-12)
    assert model.spec == SPEC


@pytest.mark.parametrize(
    ("changes", "cache"),
    [
        ({}, "dual"),
        (BLOCKS, "prefix"),
        pytest.param({}, "prefix", marks=pytest.mark.slow),
        pytest.param(BLOCKS, "dual", marks=pytest.mark.slow),
    ],
    ids=["full-dual", "blocks-prefix", "full-prefix", "blocks-dual"],
)
def test_the_reference_follows_a_cache_through_written_out_attention(
    changes: dict[str, Any], cache: str
) -> None:
    spec = SPEC.model_copy(update=changes)
    module = WrittenOut()
    engine = dllmc.compile(module, spec=spec, backend="eager").engine()
    model = dllmc.adapt(module, spec=spec, canonical=True)
    expected = dllmc.reference.generate(model, PROMPTS, cached(cache), max_new_tokens=13)
    found = engine.generate(PROMPTS, config=cached(cache), max_new_tokens=13)
    assert found.tokens == [output.tokens for output in expected]
    assert found.nfe == [output.nfe for output in expected]


def test_the_reference_says_how_to_follow_it() -> None:
    model = dllmc.adapt(WrittenOut(), spec=SPEC)
    with pytest.raises(ConfigError, match=r"give it the canonical graph, `dllmc\.adapt"):
        dllmc.reference.generate(model, PROMPTS, cached("dual"), max_new_tokens=13)
