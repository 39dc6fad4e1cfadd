from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from dllmc.models import SHAPES, _registry, architectures, load_model, loading
from dllmc.models._moe import Experts
from dllmc.spec import CheckpointError, ModelNotFoundError, UnknownArchitectureError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("llada-8b", 8_015_581_184),
        ("llada-60m", 59_785_728),
        ("llada-7m", 6_917_376),
        ("llada-tiny", 26_784),
        ("llada-tiny-gqa", 24_736),
        ("dream-7b", 7_615_616_512),
        ("dream-tiny", 24_864),
        ("sdar-4b", 4_411_424_256),
        ("sdar-tiny", 30_944),
        ("fast-dllm-v2-7b", 7_615_616_512),
        ("fast-dllm-v2-tiny", 24_864),
        ("llada-moe-7b", 7_356_880_896),
        ("llada-moe-tiny", 39_616),
        ("llada2-mini", 16_255_638_528),
        ("llada2-tiny", 38_880),
        ("sdar-moe-tiny", 43_744),
    ],
)
def test_a_shape_has_its_number_of_parameters(shape: str, parameters: int) -> None:
    with torch.device("meta"):
        module, _ = _registry.denoiser_for(SHAPES[shape]).from_config(SHAPES[shape])
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


@pytest.mark.parametrize("shape", ["llada-tiny", "llada-tiny-gqa", "llada-7m"])
def test_random_weights_leave_a_canvas_unsure_to_varied_degrees(shape: str) -> None:
    model = load_model(f"random:{shape}")
    canvas = torch.randint(0, model.spec.vocab_size, (4, 64))
    canvas[:, 24:] = model.spec.mask_id
    logits = model.module(canvas)[:, 24:].double()
    confidence = logits.softmax(-1).amax(-1)
    assert confidence.quantile(0.1) < 0.5
    assert confidence.quantile(0.5) < 0.9
    assert confidence.quantile(0.9) > 0.9
    assert len(logits.argmax(-1).unique()) > 8


OTHER_BODIES = ("dream-tiny", "sdar-tiny", "fast-dllm-v2-tiny")
MIXTURES = ("llada-moe-tiny", "llada2-tiny", "sdar-moe-tiny")


@pytest.mark.parametrize("shape", [*OTHER_BODIES, *MIXTURES])
def test_other_bodies_are_about_as_unsure(shape: str) -> None:
    model = load_model(f"random:{shape}")
    canvas = torch.randint(0, model.spec.vocab_size, (4, 64))
    canvas[:, 24:] = model.spec.mask_id
    logits = model.module(canvas)[:, 24:].double()
    confidence = logits.softmax(-1).amax(-1)
    assert confidence.quantile(0.1) < 0.5
    assert confidence.quantile(0.9) > 0.75
    assert len(logits.argmax(-1).unique()) > 6


def test_random_weights_depend_on_the_seed_alone() -> None:
    one, same, other = (load_model("random:llada-tiny", seed=s).module for s in (1, 1, 2))
    torch.manual_seed(99)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
        assert not torch.equal(tensor, other.state_dict()[name])


def test_random_weights_are_the_same_in_every_type_up_to_rounding() -> None:
    wide = load_model("random:llada-tiny").module.state_dict()
    half = load_model("random:llada-tiny", dtype=torch.bfloat16).module.state_dict()
    assert all(torch.equal(wide[name].bfloat16(), tensor) for name, tensor in half.items())


@pytest.mark.parametrize("shape", MIXTURES)
def test_random_routers_use_all_experts(shape: str) -> None:
    model = load_model(f"random:{shape}")
    loads: list[torch.Tensor] = []
    for module in model.module.modules():
        if isinstance(module, Experts):
            module.register_forward_pre_hook(
                lambda _, given: loads.append(given[1].flatten().bincount(minlength=8))
            )
    model.module(torch.randint(0, model.spec.vocab_size, (4, 64)))
    assert loads
    for load in loads:
        # Two of eight experts for each of 256 rows.
        assert load.sum() == 512
        assert load.min() > 16


def test_a_buffer_is_random_too_and_keeps_its_type() -> None:
    name = "model.layers.1.mlp.gate.expert_bias"
    wide = load_model("random:llada2-tiny").module.state_dict()[name]
    half = load_model("random:llada2-tiny", dtype=torch.bfloat16).module.state_dict()[name]
    assert torch.equal(wide, half)
    assert 0.02 < wide.std() < 0.5


def test_random_models_say_what_they_are() -> None:
    model = load_model("random:llada-tiny")
    assert model.name == "random:llada-tiny"
    assert model.source is None
    assert model.tokenizer is None
    assert model.spec.family == "llada"
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("random:llada-8", "`llada-8` is not a shape; did you mean `llada-8b`?"),
        ("random:", "`` is not a shape; known: dream-7b"),
        ("embeded", "there is no model `embeded`; did you mean `embedded`?"),
        ("random-llada-7m", "did you mean `random:llada-7m`?"),
        ("no/such/folder", "there is no model `no/such/folder`; known: auxiliary, embedded"),
    ],
)
def test_an_unknown_name_gets_a_hint(name: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        load_model(name)
    assert message in str(caught.value)


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_model("random:llada-tiny", device=device)
    assert f"device `{device}` cannot be used" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_its_checkpoint_the_embedded_model_says_how_to_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "CHECKPOINT", tmp_path / "none")
    with pytest.raises(ModelNotFoundError, match=r"python -m dllmc\.models\.embedded\.train"):
        load_model("embedded")


def test_the_scan_finds_the_architectures() -> None:
    assert "LLaDAModelLM" in architectures()


def test_the_first_known_architecture_is_taken() -> None:
    known = _registry.denoiser_for({"architectures": ["LLaDAModelLM"]})
    assert _registry.denoiser_for({"architectures": ["Other", "LLaDAModelLM"]}) is known
    with pytest.raises(UnknownArchitectureError, match="architecture `Other` has no denoiser"):
        _registry.denoiser_for({"architectures": ["Other"]})
    with pytest.raises(CheckpointError, match="`architectures` is None"):
        _registry.denoiser_for({})
