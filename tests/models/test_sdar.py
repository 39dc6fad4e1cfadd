from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs.passing import matches
from published.layout import write, write_sharded
from published.qwen import recomputed

from dllmc.models import _random, load_model
from dllmc.models.sdar import SDAR
from dllmc.models.shapes import SHAPES
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TINY = SHAPES["sdar-tiny"]
# config.json of SDAR-4B-Chat in JetAstra/SDAR, training/model.
PUBLISHED = json.loads("""{
  "architectures": ["SDARForCausalLM"],
  "auto_map": {"AutoConfig": "configuration_sdar.SDARConfig",
               "AutoModel": "modeling_sdar.SDARModel",
               "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
  "attention_bias": false, "attention_dropout": 0.0, "attn_implementation": "flex_attention",
  "bos_token_id": 151643, "debug": false, "eos_token_id": 151643, "block_size": 4,
  "mask_token_id": 151669, "ep_size": 1, "fuse_cross_entropy": true, "head_dim": 128,
  "hidden_act": "silu", "hidden_size": 2560, "initializer_range": 0.02,
  "intermediate_size": 9728, "max_position_embeddings": 32768, "max_window_layers": 36,
  "micro_forward": false, "model_type": "sdar", "num_attention_heads": 32,
  "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
  "rope_theta": 1000000, "skip_checkpoint": false, "sliding_window": null,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "transformers_version": "4.52.4",
  "use_cache": false, "use_deepep": false, "use_sliding_window": false, "vocab_size": 151936
}""")


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> SDAR:
    with torch.device("meta"):
        module, spec = SDAR.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


@pytest.mark.parametrize("length", [5, 8, 21])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block_size": 4},
        {"block_size": 64},
        {"num_key_value_heads": 4},
        {"head_dim": 8},
        {"tie_word_embeddings": True},
        {"rope_theta": 1e4, "rms_norm_eps": 0.1},
    ],
    ids=str,
)
def test_logits_equal_an_independent_computation(changes: dict[str, Any], length: int) -> None:
    module, keys = build(**changes), TINY | changes
    tokens = torch.randint(0, 96, (2, length))
    found = module(tokens)
    for row in range(2):
        expected = recomputed(keys, module.state_dict(), tokens[row], keys["block_size"])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_a_block_sees_all_of_itself_and_of_the_past_and_nothing_later() -> None:
    module = build(block_size=4)
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = 91
    moved = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 1e-6).all()


def test_the_first_blocks_do_not_depend_on_what_follows() -> None:
    module = build(block_size=4)
    tokens = torch.randint(0, 90, (2, 19))
    torch.testing.assert_close(module(tokens)[:, :8], module(tokens[:, :8]), rtol=0, atol=1e-12)


def test_the_published_config_gives_the_published_parameters() -> None:
    with torch.device("meta"):
        module, spec = SDAR.from_config(PUBLISHED)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    layer = {
        "input_layernorm.weight": (2560,),
        "post_attention_layernorm.weight": (2560,),
        "self_attn.q_proj.weight": (4096, 2560),
        "self_attn.k_proj.weight": (1024, 2560),
        "self_attn.v_proj.weight": (1024, 2560),
        "self_attn.o_proj.weight": (2560, 4096),
        "self_attn.q_norm.weight": (128,),
        "self_attn.k_norm.weight": (128,),
        "mlp.gate_proj.weight": (9728, 2560),
        "mlp.up_proj.weight": (9728, 2560),
        "mlp.down_proj.weight": (2560, 9728),
    }
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (151936, 2560),
        "model.norm.weight": (2560,),
        "lm_head.weight": (151936, 2560),
    }
    for i in range(36):
        expected |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    assert shapes == expected
    assert spec.mask_id == 151669
    assert spec.max_length == 32768
    assert spec.eos_ids == (151643,)
    assert (spec.attention, spec.block_length, spec.blocks_from) == ("block_causal", 4, "canvas")
    assert spec.logit_shift == 0
    assert spec.family == "sdar"


def test_a_config_without_blocks_and_mask_has_those_of_the_published_decoder() -> None:
    keys = {k: v for k, v in PUBLISHED.items() if k not in ("block_size", "mask_token_id")}
    with torch.device("meta"):
        _, spec = SDAR.from_config(keys)
        _, longer = SDAR.from_config(keys | {"block_size": 64})
    assert (spec.block_length, spec.mask_id) == (4, 151669)
    assert longer.block_length == 64


def test_passes_match_as_often_as_declared() -> None:
    model = load_model("random:sdar-tiny")
    names = ("match_rms_norm", "match_rotary", "match_swiglu")
    assert matches(model, names) == (9, 4, 2)


@pytest.mark.parametrize(
    ("path", "block_length"),
    [
        ("SDAR-8B-Chat", 4),
        ("SDAR-8B-Chat-b32", 32),
        ("SDAR-8B-Chat-b9", 4),
        ("mine-b32", 4),
        ("models--JetLM--SDAR-1.7B-Chat-b16/snapshots/7c8e0f", 16),
    ],
)
def test_without_the_key_the_name_says_how_long_blocks_are(
    tmp_path: Path, path: str, block_length: int
) -> None:
    keys = {name: value for name, value in TINY.items() if name != "block_size"}
    tensors = build(torch.float32).state_dict()
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    loaded = load_model(write(tmp_path / path, keys, tensors))
    assert loaded.spec.block_length == block_length
    assert loaded.config == keys
    link = tmp_path / "link"
    link.symlink_to(tmp_path / path)
    assert load_model(link).spec.block_length == block_length


def test_the_key_counts_more_than_the_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "SDAR-8B-Chat-b32", TINY, build(torch.float32).state_dict())
    assert load_model(folder).spec.block_length == 8


@pytest.mark.parametrize("save", [write, write_sharded])
def test_a_checkpoint_in_the_published_layout_loads(tmp_path: Path, save: Any) -> None:
    module = build(torch.float32)
    loaded = load_model(save(tmp_path / "mine", TINY, module.state_dict()))
    tokens = torch.randint(0, 96, (2, 21))
    assert torch.equal(loaded.module(tokens), module(tokens))
    assert loaded.spec == load_model("random:sdar-tiny").spec


def test_a_missing_norm_and_a_strange_bias_are_named(tmp_path: Path) -> None:
    tensors = dict(build(torch.float32).state_dict())
    norm, bias = "model.layers.1.self_attn.k_norm.weight", "model.layers.0.self_attn.q_proj.bias"
    wrong = {
        f"lacks tensor `{norm}`": {name: t for name, t in tensors.items() if name != norm},
        f"holds tensor `{bias}`": tensors | {bias: torch.zeros(64)},
        "is [8], but config.json asks for [16]": tensors | {norm: torch.ones(8)},
    }
    for number, (message, broken) in enumerate(wrong.items()):
        with pytest.raises(CheckpointError) as caught:
            load_model(write(tmp_path / str(number), TINY, broken))
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "`attention_bias` is True, but only False is supported"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "`rope_scaling` is {'rope_type': 'yarn'}"),
        ({"use_sliding_window": True}, "`use_sliding_window` is True"),
        ({"block_size": 0}, "`block_size` is 0; input should be greater than 0"),
        ({"head_dim": None}, "`head_dim` is None; input should be a valid integer"),
        ({"head_dim": 15}, "the width of a head, 15, must be even"),
        ({"mask_token_id": 151669}, "`mask_token_id`=151669 must be under the vocabulary size"),
    ],
    ids=str,
)
def test_an_unsupported_or_contradictory_config_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        SDAR.from_config(TINY | changes)
    assert message in str(caught.value)


def test_head_dim_may_not_be_missing() -> None:
    keys = {name: value for name, value in TINY.items() if name != "head_dim"}
    with pytest.raises(CheckpointError, match="`head_dim` is missing; add it"):
        SDAR.from_config(keys)
