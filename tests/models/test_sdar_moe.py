from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from published.layout import write, write_sharded
from published.mixtures import softmax_mixture, tensors_of

from dllmc.models import _random, load_model
from dllmc.models.sdar_moe import SDARMoE
from dllmc.models.shapes import SHAPES
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TINY = SHAPES["sdar-moe-tiny"]
# The sizes of Qwen3-30B-A3B, from which SDAR-30B-A3B was trained.
LARGE = {
    "architectures": ["SDARMoeForCausalLM"],
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "eos_token_id": 151643,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 32768,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> SDARMoE:
    with torch.device("meta"):
        module, spec = SDARMoE.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


@pytest.mark.parametrize("length", [5, 21])
@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({}, ()),
        ({"block_size": 4}, ()),
        ({"block_size": 64}, ()),
        ({"norm_topk_prob": False}, ()),
        ({"num_experts_per_tok": 1}, ()),
        ({"mlp_only_layers": [1]}, (1,)),
        ({"decoder_sparse_step": 2}, (0,)),
        ({"head_dim": 8, "num_experts": 5}, ()),
    ],
    ids=str,
)
def test_logits_equal_an_independent_computation(
    changes: dict[str, Any], dense: tuple[int, ...], length: int
) -> None:
    module, keys = build(**changes), TINY | changes
    tokens = torch.randint(0, 96, (2, length))
    found = module(tokens)
    for row in range(2):
        expected = softmax_mixture(
            keys, tensors_of(module), tokens[row], keys["block_size"], dense
        )
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_a_block_sees_all_of_itself_and_of_the_past_and_nothing_later() -> None:
    module = build(block_size=4)
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = 91
    moved = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 1e-6).all()


@pytest.mark.parametrize("writer", [write, write_sharded])
@pytest.mark.parametrize("changes", [{}, {"mlp_only_layers": [0]}], ids=str)
def test_a_checkpoint_in_the_published_layout_loads(
    tmp_path: Path, writer: Any, changes: dict[str, Any]
) -> None:
    module = build(torch.float32, **changes)
    loaded = load_model(writer(tmp_path / "mine", TINY | changes, tensors_of(module)))
    tokens = torch.randint(0, 96, (2, 19))
    assert torch.equal(loaded.module(tokens), module(tokens))
    assert loaded.spec.attention == "block_causal"
    assert loaded.spec.block_length == 8
    assert loaded.spec.family == "sdar-moe"


def test_the_large_model_has_the_tensors_of_its_body() -> None:
    with torch.device("meta"):
        module, spec = SDARMoE.from_config(LARGE)
    assert sum(p.numel() for p in module.parameters()) == 30_532_122_624
    stacks = module.stored_as["model.layers.47.mlp.experts.gate_up"]
    assert len(stacks) == 128
    at = "model.layers.47.mlp.experts.127"
    assert stacks[127] == (f"{at}.gate_proj.weight", f"{at}.up_proj.weight")
    assert spec.mask_id == 151669
    assert spec.block_length == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "`attention_bias` is True, but only False"),
        ({"use_sliding_window": True}, "`use_sliding_window` is True"),
        ({"num_experts_per_tok": 9}, "`num_experts_per_tok`=9 must not be over `num_experts`=8"),
        ({"norm_topk_prob": None}, "`norm_topk_prob` is None"),
        ({"moe_intermediate_size": 0}, "`moe_intermediate_size` is 0"),
        ({"mlp_only_layers": ["0"]}, "`mlp_only_layers` is '0'; input should be a valid integer"),
        ({"block_size": 0}, "`block_size` is 0"),
    ],
    ids=str,
)
def test_an_unsupported_or_contradictory_config_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        SDARMoE.from_config(TINY | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["num_experts", "norm_topk_prob", "moe_intermediate_size"])
def test_a_key_without_a_safe_default_may_not_be_missing(key: str) -> None:
    keys = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(CheckpointError, match=f"`{key}` is missing; add it"):
        SDARMoE.from_config(keys)
