"""Whole models that nobody here wrote: compiled, verified pass by pass, and decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs import foreign, foreign_encoders, foreign_oddities
from graphs.foreign import LAYERS, MASK, SPEC

from dllmc.compiler import canonicalise, compile_model
from dllmc.models import LoadedModel
from dllmc.policies.config import DecodingConfig
from dllmc.reference import generate
from dllmc.runtime.engine import Engine

if TYPE_CHECKING:
    from torch import nn

# What is recognised: written-out attention, norms, rotations, complex rotations, gates, tensors
# whose axes were merged, and whether the head is a plain linear layer.
CASES: list[tuple[type[nn.Module], tuple[int, int, int, int, int], bool]] = [
    (foreign.NeoX, (2, 0, 4, 0, 0), True),
    (foreign.Llama, (2, 5, 0, 4, 2), True),
    (foreign_encoders.Bert, (2, 0, 0, 0, 0), False),
    (foreign_encoders.Qwen, (0, 9, 4, 0, 2), False),
    (foreign_oddities.GPT2, (2, 0, 0, 0, 0), True),
    (foreign_oddities.Cosine, (2, 4, 0, 0, 0), False),
]
MORE_CASES: list[tuple[type[nn.Module], tuple[int, int, int, int, int], bool]] = [
    (foreign.GPTJ, (2, 0, 0, 0, 0), True),
    (foreign.Gemma, (0, 9, 4, 0, 0), False),
    (foreign_encoders.MPT, (2, 0, 0, 0, 0), False),
    (foreign_encoders.T5, (2, 5, 0, 0, 0), True),
    (foreign_oddities.Encoder, (0, 0, 0, 0, 0), True),
    (foreign_oddities.Module, (1, 0, 0, 0, 0), True),
]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in MORE_CASES]
PASSES = (
    "match_eager_attention",
    "match_rms_norm",
    "match_rotary",
    "match_complex_rotary",
    "match_swiglu",
)


def drawn(kind: type[nn.Module]) -> nn.Module:
    """Weights large enough that every row says something else."""
    torch.manual_seed(3)
    module = kind().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape) * 0.6)
    return module


def decoding(cache: str) -> DecodingConfig:
    fields: dict[str, Any] = {
        "schedule": {"kind": "blocks", "block_length": 5},
        "commit": {"kind": "threshold", "threshold": 0.5},
        "cache": {"kind": cache},
        "stop": {"kind": "length"},
    }
    return DecodingConfig.model_validate(fields)


@pytest.mark.parametrize(
    ("kind", "matches", "plain_head"), [*CASES, *SLOW], ids=lambda v: getattr(v, "__name__", "")
)
def test_compiled_verified_and_decoded(
    kind: type[nn.Module], matches: tuple[int, ...], plain_head: bool
) -> None:
    module = drawn(kind)
    compiled = compile_model(module, engine_of=Engine, spec=SPEC, backend="eager", verify=True)
    matched = {result.name: result.matched for result in compiled.report}
    assert tuple(matched[name] for name in PASSES) == matches
    assert matched["match_attention"] == matched["insert_cache"] == LAYERS
    targets = {str(node.target) for node in compiled.package.graphs["greedy"].graph.nodes}
    assert any(target.startswith("dllmc.head_statistics") for target in targets) == plain_head
    assert not {"aten.softmax.int", "aten.view_as_complex.default"} & targets
    model = LoadedModel(module, SPEC, None, kind.__name__, None, {})
    # The module itself without a cache; with one the graph in which the reference finds attention.
    for cache, plain in (("none", model), ("dual", canonicalise(model))):
        for prompt in ([1, 2, 3], [7], [3, 3, 9, 10, 4, 5]):
            expected = generate(plain, prompt, decoding(cache), max_new_tokens=12)
            found = compiled.engine().generate(prompt, max_new_tokens=12, config=decoding(cache))
            assert (found.tokens, found.nfe) == (expected.tokens, expected.nfe)
            assert MASK not in found.tokens
