"""Modules in the manner of published modelling files, from `dllmc.compile` to decoded tokens."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs.foreign_capture import MASK, VOCAB, Config, ForeignLM, PaddedLM, StatefulLM
from graphs.passing import logits, operators

import dllmc
from dllmc.compiler.capture import capture

if TYPE_CHECKING:
    from pathlib import Path

MODULES = {
    "sdpa by name": lambda: ForeignLM(Config(attn_implementation="sdpa")),
    "written out by name": lambda: ForeignLM(Config(num_key_value_heads=4)),
    "kept tables": lambda: StatefulLM(Config(eos_token_id=3)),
    "padding mask": lambda: PaddedLM(Config(attn_implementation="sdpa")),
}
# The reference follows caches in a module through calls of scaled_dot_product_attention, so what
# writes attention out is decoded there by the same weights with attention of that name.
TWINS = MODULES | {
    "written out by name": lambda: ForeignLM(
        Config(num_key_value_heads=4, attn_implementation="sdpa")
    )
}
CONFIGS = [
    {"commit": {"kind": kind} | options, "cache": {"kind": cache}}
    for (kind, options), cache in itertools.product(
        (("quota", {"steps": 8}), ("threshold", {"threshold": 0.3})), ("none", "prefix", "dual")
    )
]


@functools.cache
def compiled(name: str) -> Any:
    """The model with its report; every pass is verified."""
    return dllmc.compile(MODULES[name](), backend="eager", verify=True)


@pytest.mark.parametrize("name", MODULES)
def test_the_configuration_tells_the_spec(name: str) -> None:
    spec = compiled(name).package.spec
    assert (spec.mask_id, spec.vocab_size, spec.max_length) == (MASK, VOCAB, 48)
    assert spec.eos_ids == ((3,) if name == "kept tables" else (0, 1))
    assert spec.family == "foreign"


@pytest.mark.parametrize("name", MODULES)
def test_the_captured_graph_is_flat_and_computes_the_module(name: str) -> None:
    adapted = dllmc.adapt(MODULES[name]())
    graph = capture(adapted.module, adapted.spec)
    assert not [op for op in operators(graph) if not op.startswith(("aten.", "<built-in"))]
    for batch, length in ((1, 1), (2, 13), (4, 48)):
        tokens = torch.randint(0, VOCAB, (batch, length))
        expected = adapted.module(tokens)
        torch.testing.assert_close(logits(graph, tokens), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_every_attention_norm_and_rotation_is_recognised(name: str) -> None:
    layers = 1 if name == "kept tables" else 2
    matches = {result.name: result.matched for result in compiled(name).report}
    assert matches["match_attention"] == matches["insert_cache"] == layers
    assert matches["match_rotary"] == 2 * layers
    assert matches["match_rms_norm"] == (2 if name == "kept tables" else 2 * layers + 1)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_decoding_is_the_references(name: str, config: dict[str, Any]) -> None:
    config = config | {"schedule": {"kind": "blocks", "block_length": 8}}
    parsed = dllmc.DecodingConfig.model_validate(config)
    model = dllmc.adapt(TWINS[name]())
    engine = compiled(name).engine()
    for prompt in ([5], [2, 9, 4, 11, 3, 3, 8]):
        found = engine.generate(prompt, max_new_tokens=16, config=parsed)
        expected = dllmc.reference.generate(model, prompt, parsed, max_new_tokens=16)
        assert (found.tokens, found.nfe) == (expected.tokens, expected.nfe)


@pytest.mark.parametrize("name", ["kept tables", "written out by name"])
def test_an_artifact_decodes_without_the_module(name: str, tmp_path: Path) -> None:
    model = compiled(name)
    loaded = dllmc.load(model.save(tmp_path / "model.dllm"))
    config = dllmc.DecodingConfig.model_validate(CONFIGS[-1])
    found = loaded.generate([2, 9, 4], max_new_tokens=16, config=config)
    assert (
        found.tokens == model.engine().generate([2, 9, 4], max_new_tokens=16, config=config).tokens
    )


def test_half_precision_decodes_as_the_reference_does() -> None:
    module = ForeignLM(Config(attn_implementation="sdpa")).bfloat16()
    model = dllmc.compile(module, backend="eager")
    assert model.package.dtype == "bfloat16"
    config = dllmc.DecodingConfig.model_validate(CONFIGS[0])
    found = model.engine().generate([2, 9, 4], max_new_tokens=16, config=config)
    expected = dllmc.reference.generate(dllmc.adapt(module), [2, 9, 4], config, max_new_tokens=16)
    assert found.tokens == expected.tokens


def test_an_example_says_how_the_module_is_called() -> None:
    example = {
        "input_ids": torch.tensor([[4, 5, 6]]),
        "attention_mask": torch.ones(1, 3, dtype=torch.bool),
        "output_attentions": False,
    }
    module = PaddedLM(Config(attn_implementation="sdpa"))
    model = dllmc.compile(module, example=example, backend="eager")
    config = dllmc.DecodingConfig.model_validate(CONFIGS[1])
    found = model.engine().generate([2, 9, 4], max_new_tokens=16, config=config)
    expected = (
        compiled("padding mask").engine().generate([2, 9, 4], max_new_tokens=16, config=config)
    )
    assert found.tokens == expected.tokens


def test_the_reference_follows_caches_through_the_canonical_graph() -> None:
    name = "written out by name"
    canonical = dllmc.adapt(MODULES[name](), canonical=True)
    for config in CONFIGS:
        parsed = dllmc.DecodingConfig.model_validate(config)
        found, expected = (
            dllmc.reference.generate(model, [2, 9, 4], parsed, max_new_tokens=16)
            for model in (canonical, dllmc.adapt(TWINS[name]()))
        )
        assert (found.tokens, found.nfe) == (expected.tokens, expected.nfe)
