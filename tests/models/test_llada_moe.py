from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from published.layout import write, write_sharded
from published.mixtures import softmax_mixture, tensors_of

from dllmc.models import _random, load_checkpoint, load_model
from dllmc.models.llada_moe import LLaDAMoE
from dllmc.models.shapes import SHAPES
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TINY = SHAPES["llada-moe-tiny"]
# Keys that the published configuration class knows, with LLaDA-MoE-7B-A1B's values.
PUBLISHED = json.loads("""{
  "architectures": ["LLaDAMoEModelLM"], "attention_bias": false, "attention_dropout": 0.0,
  "clip_qkv": null, "dense_intermediate_size": 8192, "eos_token_id": 156892,
  "expert_intermediate_size": 1024, "hidden_act": "silu", "hidden_size": 2048,
  "initializer_range": 0.02, "max_position_embeddings": 8192, "model_type": "llada",
  "moe_layer_freq": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
  "moe_router_enable_expert_bias": false, "moe_router_score_function": "softmax",
  "norm_topk_prob": null, "num_attention_heads": 16, "num_experts": 64,
  "num_experts_per_tok": 8, "num_hidden_layers": 16, "num_key_value_heads": 16,
  "output_router_logits": false, "pad_token_id": 156892, "partial_rotary_factor": 1,
  "qk_layernorm": true, "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 50000,
  "routed_scaling_factor": 1, "router_aux_loss_coef": 0.01, "router_num_group": null,
  "router_topk_group": null, "shared_expert_intermediate_size": null,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": false,
  "vocab_size": 157184
}""")


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> LLaDAMoE:
    with torch.device("meta"):
        module, spec = LLaDAMoE.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_experts_per_tok": 1},
        {"num_experts_per_tok": 8},
        {"num_experts": 5, "expert_intermediate_size": 17},
        {"num_key_value_heads": 2},
        {"moe_layer_freq": [0, 1]},
        {"rope_theta": 1e4, "rms_norm_eps": 0.1},
    ],
    ids=str,
)
def test_logits_equal_an_independent_computation(changes: dict[str, Any]) -> None:
    module, keys = build(**changes), TINY | changes
    dense = tuple(n for n, routed in enumerate(keys["moe_layer_freq"]) if not routed)
    tokens = torch.randint(0, 96, (2, 15))
    found = module(tokens)
    for row in range(2):
        expected = softmax_mixture(keys, tensors_of(module), tokens[row], dense=dense)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_every_position_sees_every_other() -> None:
    module = build()
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 11] = 91
    assert ((module(tokens) - module(changed)).abs().amax(-1)[0] > 1e-6).all()


def test_a_sequence_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    module = build()
    tokens = torch.randint(0, 90, (4, 12))
    torch.testing.assert_close(module(tokens)[2:3], module(tokens[2:3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_close(dtype: torch.dtype) -> None:
    tokens = torch.randint(0, 90, (2, 12))
    exact, rounded = build()(tokens), build(dtype)(tokens)
    assert rounded.dtype == dtype
    # The median: a row whose experts are nearly as likely as others may take others.
    error = (exact - rounded.double()).abs().median() / exact.std()
    assert error < 8 * torch.finfo(dtype).eps


def test_the_published_config_gives_the_published_tensors() -> None:
    with torch.device("meta"):
        module, spec = LLaDAMoE.from_config(PUBLISHED)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(module).items()}
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (2048,),
        "post_attention_layernorm": (2048,),
        "self_attn.q_norm": (128,),
        "self_attn.k_norm": (128,),
        "mlp.gate": (64, 2048),
    }
    layer |= {f"self_attn.{part}_proj": (2048, 2048) for part in "qkvo"}
    for expert in range(64):
        layer |= {
            f"mlp.experts.{expert}.gate_proj": (1024, 2048),
            f"mlp.experts.{expert}.up_proj": (1024, 2048),
            f"mlp.experts.{expert}.down_proj": (2048, 1024),
        }
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (157184, 2048),
        "model.norm.weight": (2048,),
        "lm_head.weight": (157184, 2048),
    }
    for number in range(16):
        expected |= {f"model.layers.{number}.{name}.weight": s for name, s in layer.items()}
    assert shapes == expected
    assert spec.mask_id == 156895
    assert spec.eos_ids == (156892,)
    assert spec.max_length == 8192
    assert spec.attention == "full"
    assert spec.logit_shift == 0


@pytest.mark.parametrize("writer", [write, write_sharded])
@pytest.mark.parametrize("changes", [{}, {"moe_layer_freq": [1, 0]}], ids=str)
def test_a_checkpoint_in_the_published_layout_loads(
    tmp_path: Path, writer: Any, changes: dict[str, Any]
) -> None:
    module = build(torch.float32, **changes)
    loaded = load_model(writer(tmp_path / "mine", TINY | changes, tensors_of(module)))
    assert set(loaded.module.state_dict()) == set(module.state_dict())
    tokens = torch.randint(0, 96, (2, 9))
    assert torch.equal(loaded.module(tokens), module(tokens))
    assert loaded.spec.family == "llada-moe"


def test_weights_keep_their_type_unless_another_is_asked_for(tmp_path: Path) -> None:
    folder = write(tmp_path, TINY, tensors_of(build(torch.bfloat16)))
    tokens = torch.randint(0, 96, (1, 9))
    assert load_checkpoint(folder).module(tokens).dtype == torch.bfloat16
    assert load_checkpoint(folder, torch.float64).module(tokens).dtype == torch.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_layernorm": False}, "`qk_layernorm` is False, but only True is supported"),
        ({"clip_qkv": 8.0}, "`clip_qkv` is 8.0, but only None"),
        ({"attention_bias": True}, "`attention_bias` is True, but only False"),
        ({"hidden_act": "gelu"}, "`hidden_act` is 'gelu', but only 'silu'"),
        ({"rope_scaling": {"type": "linear"}}, "`rope_scaling` is {'type': 'linear'}"),
        ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor` is 0.5, but only 1"),
        ({"norm_topk_prob": True}, "`norm_topk_prob` is True, but only False"),
        ({"moe_router_enable_expert_bias": True}, "`moe_router_enable_expert_bias` is True"),
        ({"moe_router_score_function": "sigmoid"}, "`moe_router_score_function` is 'sigmoid'"),
        ({"shared_expert_intermediate_size": 64}, "`shared_expert_intermediate_size` is 64"),
        ({"routed_scaling_factor": 2.5}, "`routed_scaling_factor` is 2.5, but only 1"),
        ({"num_experts": 0}, "`num_experts` is 0; input should be greater than 0"),
        ({"num_experts_per_tok": 9}, "`num_experts_per_tok`=9 must not be over `num_experts`=8"),
        ({"moe_layer_freq": [1]}, "`moe_layer_freq` has 1 entries, but `num_hidden_layers` is 2"),
        ({"moe_layer_freq": [1, 2]}, "`moe_layer_freq` is 2; input should be less than or equal"),
        ({"dense_intermediate_size": 0}, "`dense_intermediate_size` is 0"),
    ],
    ids=str,
)
def test_an_unsupported_or_contradictory_config_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        LLaDAMoE.from_config(TINY | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["num_experts", "num_experts_per_tok", "expert_intermediate_size", "moe_layer_freq"]
)
def test_a_key_without_a_safe_default_may_not_be_missing(key: str) -> None:
    keys = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(CheckpointError, match=f"`{key}` is missing; add it"):
        LLaDAMoE.from_config(keys)
