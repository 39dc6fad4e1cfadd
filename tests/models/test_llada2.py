from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from published.layout import write, write_sharded
from published.mixtures import grouped_mixture, tensors_of

from dllmc.models import _random, load_checkpoint, load_model
from dllmc.models.llada2 import LLaDA2
from dllmc.models.shapes import SHAPES
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TINY = SHAPES["llada2-tiny"]
# LLaDA2.0-mini: configs/model_configs/llada2_mini/config.json of inclusionAI/dFactory, with the
# architecture's own model_type.
PUBLISHED = json.loads("""{
  "architectures": ["LLaDA2MoeModelLM"], "attention_dropout": 0.0, "embedding_dropout": 0.0,
  "first_k_dense_replace": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
  "initializer_range": 0.02, "intermediate_size": 5120, "max_position_embeddings": 16384,
  "max_window_layers": 28, "model_type": "llada2_moe", "moe_intermediate_size": 512,
  "moe_router_enable_expert_bias": true, "n_group": 8, "norm_head": false,
  "norm_softmax": false, "norm_topk_prob": true, "num_attention_heads": 16,
  "num_experts": 256, "num_experts_per_tok": 8, "num_hidden_layers": 20,
  "num_key_value_heads": 4, "num_shared_experts": 1, "output_dropout": 0.0,
  "output_router_logits": false, "pad_token_id": 156892, "partial_rotary_factor": 0.5,
  "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 600000, "rotary_dim": 64,
  "routed_scaling_factor": 2.5, "router_dtype": "fp32", "score_function": "sigmoid",
  "tie_word_embeddings": false, "topk_group": 4, "torch_dtype": "bfloat16", "use_bias": false,
  "use_cache": false, "use_qkv_bias": false, "use_rmsnorm": true, "use_sliding_window": false,
  "using_split_qkv_in_self_attention": false, "vocab_size": 157184
}""")


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> LLaDA2:
    with torch.device("meta"):
        module, spec = LLaDA2.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_group": 1, "topk_group": 1},
        {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 4},
        {"num_experts_per_tok": 1},
        {"num_experts": 12, "num_shared_experts": 2, "moe_intermediate_size": 7},
        {"first_k_dense_replace": 0},
        {"first_k_dense_replace": 2},
        {"partial_rotary_factor": 1.0},
        {"partial_rotary_factor": 0.25},
        {"num_key_value_heads": 4, "head_dim": 8},
        {"block_size": 32},
        {"routed_scaling_factor": 1.0, "rope_theta": 1e4, "rms_norm_eps": 0.1},
    ],
    ids=str,
)
def test_logits_equal_an_independent_computation(changes: dict[str, Any]) -> None:
    module, keys = build(**changes), TINY | changes
    tokens = torch.randint(0, 96, (2, 21))
    found = module(tokens)
    for row in range(2):
        expected = grouped_mixture(keys, tensors_of(module), tokens[row])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_the_bias_decides_who_is_chosen_and_not_with_which_weight() -> None:
    module = build(first_k_dense_replace=1, n_group=1, topk_group=1)
    gate = module.model.layers[1].mlp.gate
    x = torch.randn(1, 4, 32, dtype=torch.float64)
    gate.expert_bias.zero_()
    ids, weights = gate(x)
    gate.expert_bias[3] = 10.0
    pushed, of_pushed = gate(x)
    assert (pushed[..., 0] == 3).all()
    scores = torch.sigmoid(x @ gate.weight.T).gather(-1, pushed)
    shares = scores / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(of_pushed, 2.5 * shares, rtol=1e-12, atol=0)
    assert not torch.equal(ids, pushed)
    assert (weights.sum(-1) - 2.5).abs().max() < 1e-12


def test_a_block_sees_all_of_itself_and_of_the_past_and_nothing_later() -> None:
    module = build(block_size=4)
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = 91
    moved = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_close(dtype: torch.dtype) -> None:
    tokens = torch.randint(0, 90, (2, 12))
    exact, rounded = build()(tokens), build(dtype)(tokens)
    assert rounded.dtype == dtype
    # The median: a row whose experts are nearly as good as others may take others.
    error = (exact - rounded.double()).abs().median() / exact.std()
    assert error < 8 * torch.finfo(dtype).eps


def test_the_published_config_gives_the_published_tensors() -> None:
    with torch.device("meta"):
        module, spec = LLaDA2.from_config(PUBLISHED)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(module).items()}
    every: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (2048,),
        "post_attention_layernorm.weight": (2048,),
        "attention.query_key_value.weight": (3072, 2048),
        "attention.query_layernorm.weight": (128,),
        "attention.key_layernorm.weight": (128,),
        "attention.dense.weight": (2048, 2048),
    }
    routed = {"mlp.gate.weight": (256, 2048), "mlp.gate.expert_bias": (256,)}
    for expert in ("shared_experts", *(f"experts.{number}" for number in range(256))):
        routed |= {
            f"mlp.{expert}.gate_proj.weight": (512, 2048),
            f"mlp.{expert}.up_proj.weight": (512, 2048),
            f"mlp.{expert}.down_proj.weight": (2048, 512),
        }
    dense = {
        "mlp.gate_proj.weight": (5120, 2048),
        "mlp.up_proj.weight": (5120, 2048),
        "mlp.down_proj.weight": (2048, 5120),
    }
    expected: dict[str, tuple[int, ...]] = {
        "model.word_embeddings.weight": (157184, 2048),
        "model.norm.weight": (2048,),
        "lm_head.weight": (157184, 2048),
    }
    for number in range(20):
        layer = every | (routed if number else dense)
        expected |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    assert shapes == expected
    assert spec.mask_id == 156895
    assert spec.eos_ids == (156892,)
    assert (spec.attention, spec.block_length, spec.blocks_from) == ("block_causal", 32, "canvas")
    assert spec.logit_shift == 0


@pytest.mark.parametrize("writer", [write, write_sharded])
def test_a_checkpoint_in_the_published_layout_loads(tmp_path: Path, writer: Any) -> None:
    module = build(torch.float32)
    loaded = load_model(writer(tmp_path / "mine", TINY, tensors_of(module)))
    tokens = torch.randint(0, 96, (2, 19))
    assert torch.equal(loaded.module(tokens), module(tokens))
    assert loaded.spec.family == "llada2"


def test_the_bias_stays_in_the_precision_it_is_stored_in(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.gate.expert_bias"
    module = build(torch.bfloat16)
    tensors = tensors_of(module)
    assert tensors[name].dtype == torch.float32
    folder = write(tmp_path, TINY, tensors)
    tokens = torch.randint(0, 96, (2, 19))
    for dtype in (None, torch.bfloat16):
        loaded = load_checkpoint(folder, dtype).module
        assert torch.equal(loaded.state_dict()[name], tensors[name])
        assert torch.equal(loaded(tokens), module(tokens))
    wide = load_checkpoint(folder, torch.float64).module
    assert wide(tokens).dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_qkv_bias": True}, "`use_qkv_bias` is True, but only False"),
        ({"use_bias": True}, "`use_bias` is True, but only False"),
        ({"use_qk_norm": False}, "`use_qk_norm` is False, but only True"),
        ({"norm_head": True}, "`norm_head` is True"),
        ({"score_function": "softmax"}, "`score_function` is 'softmax', but only 'sigmoid'"),
        ({"norm_topk_prob": False}, "`norm_topk_prob` is False, but only True"),
        ({"moe_router_enable_expert_bias": False}, "`moe_router_enable_expert_bias` is False"),
        ({"tie_word_embeddings": True}, "`tie_word_embeddings` is True"),
        ({"use_sliding_window": True}, "`use_sliding_window` is True"),
        ({"rope_scaling": {"type": "yarn"}}, "`rope_scaling` is {'type': 'yarn'}"),
        ({"n_group": 3}, "`n_group`=3 must divide `num_experts`=8 into groups of two or more"),
        ({"n_group": 8}, "`n_group`=8 must divide `num_experts`=8 into groups of two or more"),
        ({"topk_group": 5}, "`topk_group`=5 must not be over `n_group`=4"),
        ({"num_experts_per_tok": 5}, "`num_experts_per_tok`=5 must not be over the 4 experts"),
        ({"num_shared_experts": 0}, "`num_shared_experts` is 0"),
        ({"partial_rotary_factor": 0.1}, "`partial_rotary_factor`=0.1 turns 1 of `head_dim`=16"),
        ({"partial_rotary_factor": 1.5}, "`partial_rotary_factor` is 1.5"),
        ({"mask_token_id": 96}, "`mask_token_id`=96 must be under the vocabulary size, 96"),
        ({"first_k_dense_replace": -1}, "`first_k_dense_replace` is -1"),
    ],
    ids=str,
)
def test_an_unsupported_or_contradictory_config_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        LLaDA2.from_config(TINY | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["head_dim", "num_experts", "n_group", "partial_rotary_factor", "num_shared_experts"]
)
def test_a_key_without_a_safe_default_may_not_be_missing(key: str) -> None:
    keys = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(CheckpointError, match=f"`{key}` is missing; add it"):
        LLaDA2.from_config(keys)
