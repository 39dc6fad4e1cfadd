from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from joint.layers import drawn_layer, layer_file, save_layer
from lockstep.drawn import SHAPES, engine_of, model_of
from safetensors.torch import save_file

from dllmc import reference
from dllmc.policies.config import DecodingConfig
from dllmc.policies.verify._joint_layer import JointLayer, load_layer
from dllmc.policies.verify.joint_sampler import JointSampler
from dllmc.spec import ConfigError, DenoiserSpec

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = SHAPES[0]
SPEC = DenoiserSpec(mask_id=23, vocab_size=24, max_length=48)
PROMPTS = [[5, 6, 7], [9], [3, 3, 8, 2]]
LENGTH = 16


def config(path: str, tokens: int, **others: Any) -> DecodingConfig:
    """One token per decision, in blocks of 8."""
    verify = {"kind": "joint_sampler", "path": path, "tokens": tokens}
    return DecodingConfig(**quota(LENGTH, **others) | {"verify": verify})


def quota(steps: int, **others: Any) -> dict[str, Any]:
    axes = {
        "schedule": {"kind": "blocks", "block_length": 8},
        "commit": {"kind": "quota", "steps": steps},
        "stop": {"kind": "length"},
    }
    return {**axes, **others}


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_one_token_per_evaluation_is_decoding_without_it(cache: str, temperature: float) -> None:
    others = {"cache": {"kind": cache}, "temperature": temperature}
    alone = DecodingConfig(**quota(LENGTH, **others))
    asked = config(layer_file(), 1, **others)
    engine = engine_of(SHAPE)
    expected = engine.generate(PROMPTS, config=alone, max_new_tokens=LENGTH)
    found = engine.generate(PROMPTS, config=asked, max_new_tokens=LENGTH)
    assert (found.tokens, found.nfe) == (expected.tokens, expected.nfe)
    assert found.auxiliary_nfe == [0, 0, 0]


@pytest.mark.parametrize("tokens", [2, 4, 8])
def test_a_layer_that_adds_nothing_commits_as_many_tokens_in_parallel(tokens: int) -> None:
    """The marginals stay what they are, so that K passes take the K surest of one evaluation."""
    parallel = DecodingConfig(**quota(LENGTH // tokens))
    engine = engine_of(SHAPE)
    expected = engine.generate(PROMPTS, config=parallel, max_new_tokens=LENGTH)
    identity = config(layer_file(out=0.0), tokens)
    found = engine.generate(PROMPTS, config=identity, max_new_tokens=LENGTH)
    assert (found.tokens, found.nfe) == (expected.tokens, expected.nfe)
    assert found.auxiliary_nfe == [LENGTH - LENGTH // tokens] * 3


def test_a_layer_that_sees_the_committed_tokens_takes_others() -> None:
    engine = engine_of(SHAPE)
    asked, identity = (config(path, 4) for path in (layer_file(), layer_file(out=0.0)))
    found = engine.generate(PROMPTS, config=asked, max_new_tokens=LENGTH)
    assert found.tokens != engine.generate(PROMPTS, config=identity, max_new_tokens=LENGTH).tokens
    assert found.nfe == [LENGTH // 4] * 3


def test_every_decision_is_in_the_trace_and_passes_are_not_evaluations() -> None:
    found = engine_of(SHAPE).generate(
        PROMPTS[0], config=config(layer_file(), 4), max_new_tokens=LENGTH
    )
    passes = [step.plan.startswith("joint-") for step in found.trace.steps]
    assert passes == [False, True, True, True] * 4
    assert [step.nfe for step in found.trace.steps] == [n for n in (1, 2, 3, 4) for _ in range(4)]
    assert (found.nfe, found.auxiliary_nfe) == (4, 12)
    assert sum(len(step.positions) for step in found.trace.steps) == LENGTH


def test_a_sequence_decodes_in_a_batch_as_it_does_alone() -> None:
    engine, asked = engine_of(SHAPE), config(layer_file(), 3, temperature=0.9)
    together = engine.generate(PROMPTS, config=asked, max_new_tokens=LENGTH)
    for stream, prompt in enumerate(PROMPTS):
        alone = engine.generate(prompt, config=asked, max_new_tokens=LENGTH, streams=[stream])
        assert (alone.tokens, alone.nfe) == (together.tokens[stream], together.nfe[stream])


def test_a_layer_comes_back_from_its_file(tmp_path: Path) -> None:
    layer, path = drawn_layer(16, 2), str(tmp_path / "layer.safetensors")
    save_layer(path, layer)
    found = load_layer(path)
    assert (found.width, found.heads, found.theta) == (16, 2, 10000.0)
    assert all(torch.equal(found.weights[name], each) for name, each in layer.weights.items())


def test_a_layer_of_another_width_is_refused_by_engine_and_reference() -> None:
    asked = config(layer_file(64), 4)
    match = "has width 64, and the .*hidden states .*32; give the layer that was trained"
    with pytest.raises(ConfigError, match=match):
        engine_of(SHAPE).generate(PROMPTS, config=asked, max_new_tokens=LENGTH)
    with pytest.raises(ConfigError, match=match):
        reference.generate(model_of(SHAPE), PROMPTS[0], asked, max_new_tokens=LENGTH)


def test_a_file_that_is_no_layer_is_refused_by_name(tmp_path: Path) -> None:
    missing = JointSampler(path=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"`verify\.path`='.*none' cannot be read"):
        missing.check_model(SPEC)
    other = tmp_path / "other.safetensors"
    other.write_text("no tensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        JointSampler(path=str(other)).check_model(SPEC)
    for told, match in (
        ({}, r"its metadata \{\} must say `heads`"),
        ({"heads": "many", "rope_theta": "1e4"}, "must say `heads` and `rope_theta`"),
        ({"heads": "2", "rope_theta": "1e4"}, r"its tensors are \{'fuse': \(3,\)\}"),
    ):
        save_file({"fuse": torch.zeros(3)}, other, told)
        with pytest.raises(ConfigError, match=match):
            JointSampler(path=str(other)).check_model(SPEC)


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_heads_that_do_not_divide_the_width_are_refused(tmp_path: Path, heads: int) -> None:
    path = str(tmp_path / "layer.safetensors")
    save_layer(path, JointLayer(drawn_layer(16, 2).weights, heads, 10000.0))
    with pytest.raises(ConfigError, match=f"`heads`={heads} must divide the width 16"):
        load_layer(path)


@pytest.mark.parametrize(
    "other",
    [
        {"schedule": {"kind": "pipeline"}},
        {"revise": {"kind": "remask"}},
        {"revise": {"kind": "edit"}},
    ],
)
def test_what_a_pass_cannot_follow_is_refused_by_name(other: dict[str, Any]) -> None:
    verify = {"kind": "joint_sampler", "path": "any"}
    with pytest.raises(ConfigError, match="do not go together"):
        DecodingConfig(verify=verify, **other)


def test_it_has_no_default_file() -> None:
    with pytest.raises(ConfigError, match=r"`verify\.path` is missing, and has no default"):
        DecodingConfig(verify={"kind": "joint_sampler"})
