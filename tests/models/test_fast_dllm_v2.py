from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs.passing import matches
from published.layout import write, write_sharded
from published.qwen import recomputed

from dllmc.models import _random, load_model
from dllmc.models.fast_dllm_v2 import FastDLLMv2
from dllmc.models.shapes import SHAPES
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TINY = SHAPES["fast-dllm-v2-tiny"]
# Sizes of Qwen2.5-1.5B-Instruct, which Fast_dLLM_v2_1.5B was trained from, with the keys that
# the published configuration class adds.
SMALL: dict[str, Any] = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "bd_size": 32,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "layer_types": ["full_attention"] * 28,
    "max_position_embeddings": 32768,
    "model_type": "Fast_dLLM_Qwen",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> FastDLLMv2:
    with torch.device("meta"):
        module, spec = FastDLLMv2.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


@pytest.mark.parametrize("length", [5, 8, 21])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bd_size": 4},
        {"bd_size": 32},
        {"num_key_value_heads": 1},
        {"tie_word_embeddings": True},
    ],
    ids=str,
)
def test_logits_equal_an_independent_computation(changes: dict[str, Any], length: int) -> None:
    module, keys = build(**changes), TINY | changes
    tokens = torch.randint(0, 96, (2, length))
    found = module(tokens)
    for row in range(2):
        expected = recomputed(keys, module.state_dict(), tokens[row], keys["bd_size"])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_a_block_sees_all_of_itself_and_of_the_past_and_nothing_later() -> None:
    module = build(bd_size=4)
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = 91
    moved = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 1e-6).all()


def test_the_published_sizes_give_their_parameters_and_facts() -> None:
    with torch.device("meta"):
        module, spec = FastDLLMv2.from_config(SMALL)
    assert sum(p.numel() for p in module.parameters()) == 1_543_714_304
    names = dict(module.named_parameters())
    assert "lm_head.weight" not in names
    assert names["model.layers.27.self_attn.v_proj.bias"].shape == (256,)
    assert spec.mask_id == 151665
    assert spec.eos_ids == (151645,)
    assert (spec.attention, spec.block_length, spec.blocks_from) == ("block_causal", 32, "canvas")
    assert spec.logit_shift == 1
    assert spec.family == "fast_dllm_v2"


def test_a_config_without_blocks_mask_and_stop_has_those_of_the_published_decoder() -> None:
    keys = {k: v for k, v in SMALL.items() if k not in ("bd_size", "eos_token_id")}
    with torch.device("meta"):
        _, spec = FastDLLMv2.from_config(keys)
    assert (spec.block_length, spec.mask_id, spec.eos_ids) == (32, 151665, (151645,))


def test_passes_match_as_often_as_declared() -> None:
    model = load_model("random:fast-dllm-v2-tiny")
    names = ("match_rms_norm", "match_rotary", "match_swiglu")
    assert matches(model, names) == (5, 4, 2)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("save", [write, write_sharded])
def test_a_checkpoint_in_the_published_layout_loads(tmp_path: Path, save: Any, tied: bool) -> None:
    module = build(torch.float32, tie_word_embeddings=tied)
    keys = TINY | {"tie_word_embeddings": tied}
    loaded = load_model(save(tmp_path / "mine", keys, module.state_dict()))
    tokens = torch.randint(0, 96, (2, 21))
    assert torch.equal(loaded.module(tokens), module(tokens))
    assert loaded.spec == load_model("random:fast-dllm-v2-tiny").spec


def test_a_missing_and_a_strange_tensor_are_named(tmp_path: Path) -> None:
    tensors = dict(build(torch.float32).state_dict())
    bias, head = "model.layers.0.self_attn.q_proj.bias", "lm_head.weight"
    wrong = {
        f"lacks tensor `{bias}`": {name: t for name, t in tensors.items() if name != bias},
        f"lacks tensor `{head}`": {name: t for name, t in tensors.items() if name != head},
        "holds tensor `model.layers.2.mlp.up_proj.weight`": tensors
        | {"model.layers.2.mlp.up_proj.weight": torch.ones(64, 32)},
    }
    for number, (message, broken) in enumerate(wrong.items()):
        with pytest.raises(CheckpointError) as caught:
            load_model(write(tmp_path / str(number), TINY, broken))
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"]}, "`layer_types` has 'sliding_"),
        ({"use_sliding_window": True}, "`use_sliding_window` is True"),
        ({"bd_size": "8"}, "`bd_size` is '8'; input should be a valid integer"),
        ({"rope_scaling": {"type": "linear"}}, "`rope_scaling` is {'type': 'linear'}"),
        ({"mask_token_id": 96}, "`mask_token_id`=96 must be under the vocabulary size, 96"),
    ],
    ids=str,
)
def test_an_unsupported_or_contradictory_config_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        FastDLLMv2.from_config(TINY | changes)
    assert message in str(caught.value)
