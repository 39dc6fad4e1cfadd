from __future__ import annotations

import inspect
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from dllmc.models import _random, llada
from dllmc.models.llada import LLaDA
from dllmc.models.shapes import SHAPES
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

TINY = SHAPES["llada-tiny"]
# The keys of GSAI-ML/LLaDA-8B-Base's config.json.
PUBLISHED = json.loads("""{
  "activation_type": "silu", "alibi": false, "alibi_bias_max": 8.0,
  "architectures": ["LLaDAModelLM"], "attention_dropout": 0.0, "attention_layer_norm": false,
  "attention_layer_norm_with_affine": true, "bias_for_layer_norm": false, "block_group_size": 1,
  "block_type": "llama", "d_model": 4096, "embedding_dropout": 0.0, "embedding_size": 126464,
  "eos_token_id": 126081, "flash_attention": false, "include_bias": false,
  "include_qkv_bias": false, "init_cutoff_factor": null, "init_device": "meta",
  "init_fn": "mitchell", "init_std": 0.02, "input_emb_norm": false, "layer_norm_type": "rms",
  "layer_norm_with_affine": true, "mask_token_id": 126336, "max_sequence_length": 4096,
  "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada", "multi_query_attention": null,
  "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "pad_token_id": 126081,
  "precision": "amp_bf16", "residual_dropout": 0.0, "rms_norm_eps": 1e-05, "rope": true,
  "rope_full_precision": true, "rope_theta": 500000.0, "scale_logits": false,
  "transformers_version": "4.46.3", "use_cache": false, "vocab_size": 126464,
  "weight_tying": false
}""")


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> LLaDA:
    with torch.device("meta"):
        module, spec = LLaDA.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


def recomputed(config: dict[str, Any], weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The logits of one sequence from the paper's formulas, one head at a time."""
    heads, kv_heads = config["n_heads"], config["n_kv_heads"]
    width = config["d_model"] // heads
    length = len(tokens)
    rate = config["rope_theta"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rate
    turn = torch.polar(torch.ones_like(angles), angles)

    def norm(x: Tensor, name: str) -> Tensor:
        size: Tensor = (x.square().sum(-1) / x.shape[-1] + config["rms_norm_eps"]).sqrt()
        return x / size[:, None] * weights[name]

    def linear(x: Tensor, name: str) -> Tensor:
        y: Tensor = torch.einsum("ti,oi->to", x, weights[f"{name}.weight"])
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def rotated(x: Tensor) -> Tensor:
        turned = torch.complex(x[:, : width // 2], x[:, width // 2 :]) * turn
        return torch.cat((turned.real, turned.imag), dim=-1)

    x = weights["model.transformer.wte.weight"][tokens]
    for layer in range(config["n_layers"]):
        at = f"model.transformer.blocks.{layer}"
        y = norm(x, f"{at}.attn_norm.weight")
        q, k, v = (linear(y, f"{at}.{part}_proj") for part in "qkv")
        outputs = []
        for head in range(heads):
            mine = slice(head * width, (head + 1) * width)
            shared = head * kv_heads // heads
            theirs = slice(shared * width, (shared + 1) * width)
            scores = rotated(q[:, mine]) @ rotated(k[:, theirs]).T / math.sqrt(width)
            share = scores.exp() / scores.exp().sum(-1, keepdim=True)
            outputs.append(share @ v[:, theirs])
        x = x + linear(torch.cat(outputs, dim=-1), f"{at}.attn_out")
        y = norm(x, f"{at}.ff_norm.weight")
        gate = linear(y, f"{at}.ff_proj")
        y = gate / (1 + (-gate).exp()) * linear(y, f"{at}.up_proj")
        x = x + linear(y, f"{at}.ff_out")
    head_name = "wte" if config["weight_tying"] else "ff_out"
    x = norm(x, "model.transformer.ln_f.weight")
    return linear(x, f"model.transformer.{head_name}")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_kv_heads": 2},
        {"n_kv_heads": 1},
        {"weight_tying": True},
        {"include_qkv_bias": True},
        {"mlp_hidden_size": None, "mlp_ratio": 3},
        {"embedding_size": 128},
        {"rope_theta": 10000.0, "rms_norm_eps": 0.1},
    ],
    ids=str,
)
def test_logits_equal_an_independent_computation(changes: dict[str, Any]) -> None:
    config = TINY | changes
    module = build(**changes)
    tokens = torch.randint(0, config["vocab_size"], (3, 29))
    found = module(tokens)
    assert found.shape == (3, 29, config["embedding_size"])
    for row in range(3):
        expected = recomputed(config, module.state_dict(), tokens[row])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_every_position_sees_every_other() -> None:
    module = build()
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 11] = 91
    moved = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert (moved > 1e-6).all()


def test_a_row_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    module = build()
    tokens = torch.randint(0, 90, (4, 12))
    torch.testing.assert_close(module(tokens)[2:3], module(tokens[2:3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_close(dtype: torch.dtype) -> None:
    tokens = torch.randint(0, 90, (2, 12))
    exact, rounded = build()(tokens), build(dtype)(tokens)
    assert rounded.dtype == dtype
    error = (exact - rounded.double()).abs().mean() / exact.std()
    assert error < 8 * torch.finfo(dtype).eps


def test_the_published_config_gives_the_published_parameters() -> None:
    with torch.device("meta"):
        module, spec = LLaDA.from_config(PUBLISHED)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    layer = {
        "attn_norm": (4096,),
        "ff_norm": (4096,),
        "q_proj": (4096, 4096),
        "k_proj": (4096, 4096),
        "v_proj": (4096, 4096),
        "attn_out": (4096, 4096),
        "ff_proj": (12288, 4096),
        "up_proj": (12288, 4096),
        "ff_out": (4096, 12288),
    }
    expected: dict[str, tuple[int, ...]] = {
        "model.transformer.wte.weight": (126464, 4096),
        "model.transformer.ln_f.weight": (4096,),
        "model.transformer.ff_out.weight": (126464, 4096),
    }
    for i in range(32):
        for name, shape in layer.items():
            expected[f"model.transformer.blocks.{i}.{name}.weight"] = shape
    assert shapes == expected
    assert sum(p.numel() for p in module.parameters()) == 8_015_581_184
    assert spec.mask_id == 126336
    assert spec.vocab_size == 126464
    assert spec.max_length == 4096
    assert spec.eos_ids == (126081,)
    assert spec.attention == "full"
    assert spec.logit_shift == 0
    assert spec.prompt_slots is None


def test_several_eos_tokens_are_kept() -> None:
    _, spec = LLaDA.from_config(TINY | {"eos_token_id": [5, 7]})
    assert spec.eos_ids == (5, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alibi": True}, "`alibi` is True, but only False is supported"),
        ({"rope": False}, "`rope` is False, but only True is supported"),
        ({"activation_type": "swiglu"}, "`activation_type` is 'swiglu', but only 'silu'"),
        ({"layer_norm_type": "default"}, "`layer_norm_type` is 'default', but only 'rms'"),
        ({"block_type": "sequential"}, "`block_type` is 'sequential', but only 'llama'"),
        ({"attention_layer_norm": True}, "`attention_layer_norm` is True"),
        ({"input_emb_norm": True}, "`input_emb_norm` is True"),
        ({"scale_logits": True}, "`scale_logits` is True"),
        ({"include_bias": True}, "`include_bias` is True"),
        ({"block_group_size": 4}, "`block_group_size` is 4"),
        ({"multi_query_attention": True}, "`multi_query_attention` is True"),
        ({"rope": 1}, "`rope` is 1, but only True"),
        ({"n_heads": 5}, "`n_heads`=5 must divide `d_model`=32"),
        ({"n_heads": 32}, "`d_model`/`n_heads`=1 must be even"),
        ({"n_kv_heads": 3}, "`n_kv_heads`=3 must divide `n_heads`=4"),
        ({"n_layers": 0}, "`n_layers` is 0; input should be greater than 0"),
        ({"d_model": "32"}, "`d_model` is '32'; input should be a valid integer"),
        ({"rms_norm_eps": None}, "`rms_norm_eps` is None"),
        ({"mlp_hidden_size": None, "mlp_ratio": None}, "`mlp_hidden_size` and `mlp_ratio`"),
        ({"embedding_size": 64}, "`embedding_size`=64 must not be under `vocab_size`=96"),
        ({"mask_token_id": 96}, "`mask_token_id`=96 must be under the vocabulary size, 96"),
        ({"eos_token_id": [1, 99]}, "`eos_token_id`=99 must be under"),
        ({"pad_token_id": 96}, "`pad_token_id`=96 must be under"),
        ({"prompt_slots": 256}, "`prompt_slots`=256 must be under `max_sequence_length`=256"),
        ({"prompt_slots": 8, "pad_token_id": None}, "`prompt_slots`=8 needs a `pad_token_id`"),
        ({"max_sequence_length": 1}, "`max_sequence_length`"),
    ],
    ids=str,
)
def test_an_unsupported_or_contradictory_config_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        LLaDA.from_config(TINY | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["d_model", "n_heads", "n_layers", "vocab_size", "rms_norm_eps", "rope_theta"]
)
def test_a_key_without_a_safe_default_may_not_be_missing(key: str) -> None:
    keys = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(CheckpointError, match=f"`{key}` is missing; add it"):
        LLaDA.from_config(keys)


def test_the_denoiser_stays_short() -> None:
    assert len(inspect.getsource(llada).splitlines()) < 150
