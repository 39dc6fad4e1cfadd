from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs.passing import matches
from published.layout import write, write_sharded
from published.qwen import recomputed

from dllmc.models import _random, load_model
from dllmc.models.dream import Dream
from dllmc.models.shapes import SHAPES
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TINY = SHAPES["dream-tiny"]
# What the published DreamConfig writes, with the sizes and tokens of Dream-org/Dream-v0-*-7B.
PUBLISHED = json.loads("""{
  "architectures": ["DreamModel"], "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_dream.DreamConfig",
               "AutoModel": "modeling_dream.DreamModel"},
  "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 3584,
  "initializer_range": 0.02, "intermediate_size": 18944, "mask_token_id": 151666,
  "max_position_embeddings": 131072, "max_window_layers": 28, "model_type": "Dream",
  "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
  "pad_token_id": 151643, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1000000.0,
  "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "transformers_version": "4.46.2", "use_cache": true, "use_sliding_window": false,
  "vocab_size": 152064
}""")


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> Dream:
    with torch.device("meta"):
        module, spec = Dream.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 6},
        {"tie_word_embeddings": True},
        {"rope_theta": 1e4, "rms_norm_eps": 0.1},
        {"rope_theta": 1000000},
    ],
    ids=str,
)
def test_logits_equal_an_independent_computation(changes: dict[str, Any]) -> None:
    module = build(**changes)
    tokens = torch.randint(0, 96, (2, 21))
    found = module(tokens)
    for row in range(2):
        expected = recomputed(TINY | changes, module.state_dict(), tokens[row])
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_every_position_sees_every_other() -> None:
    module = build()
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 11] = 91
    moved = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert (moved > 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_stays_close(dtype: torch.dtype) -> None:
    tokens = torch.randint(0, 90, (2, 12))
    exact, rounded = build()(tokens), build(dtype)(tokens)
    assert rounded.dtype == dtype
    error = (exact - rounded.double()).abs().mean() / exact.std()
    assert error < 8 * torch.finfo(dtype).eps


def test_the_published_config_gives_the_published_parameters() -> None:
    with torch.device("meta"):
        module, spec = Dream.from_config(PUBLISHED)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    layer = {
        "input_layernorm.weight": (3584,),
        "post_attention_layernorm.weight": (3584,),
        "self_attn.q_proj.weight": (3584, 3584),
        "self_attn.q_proj.bias": (3584,),
        "self_attn.k_proj.weight": (512, 3584),
        "self_attn.k_proj.bias": (512,),
        "self_attn.v_proj.weight": (512, 3584),
        "self_attn.v_proj.bias": (512,),
        "self_attn.o_proj.weight": (3584, 3584),
        "mlp.gate_proj.weight": (18944, 3584),
        "mlp.up_proj.weight": (18944, 3584),
        "mlp.down_proj.weight": (3584, 18944),
    }
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (152064, 3584),
        "model.norm.weight": (3584,),
        "lm_head.weight": (152064, 3584),
    }
    for i in range(28):
        expected |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    assert shapes == expected
    assert spec.mask_id == 151666
    assert spec.vocab_size == 152064
    assert spec.max_length == 131072
    assert spec.eos_ids == (151643,)
    assert spec.attention == "full"
    assert spec.logit_shift == 1
    assert spec.family == "dream"


def test_passes_match_as_often_as_declared() -> None:
    model = load_model("random:dream-tiny")
    names = ("match_rms_norm", "match_rotary", "match_swiglu")
    assert matches(model, names) == (5, 4, 2)


@pytest.mark.parametrize("save", [write, write_sharded])
def test_a_checkpoint_in_the_published_layout_loads(tmp_path: Path, save: Any) -> None:
    module = build(torch.float32)
    loaded = load_model(save(tmp_path / "mine", TINY, module.state_dict()))
    tokens = torch.randint(0, 96, (2, 21))
    assert torch.equal(loaded.module(tokens), module(tokens))
    assert loaded.spec == load_model("random:dream-tiny").spec


def test_tied_embeddings_may_be_stored_once_or_twice(tmp_path: Path) -> None:
    keys = TINY | {"tie_word_embeddings": True}
    module = build(torch.float32, tie_word_embeddings=True)
    once = dict(module.state_dict())
    assert "lm_head.weight" not in once
    twice = once | {"lm_head.weight": once["model.embed_tokens.weight"].clone()}
    tokens = torch.randint(0, 96, (2, 21))
    for number, tensors in enumerate((once, twice)):
        loaded = load_model(write(tmp_path / str(number), keys, tensors))
        assert torch.equal(loaded.module(tokens), module(tokens))


def test_a_tied_head_of_other_values_is_refused(tmp_path: Path) -> None:
    keys = TINY | {"tie_word_embeddings": True}
    tensors = dict(build(torch.float32).state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_model(write(tmp_path, keys, tensors))
    assert "tensor `lm_head.weight`" in str(caught.value)
    assert "is not `model.embed_tokens.weight`" in str(caught.value)
    assert "correct `tie_word_embeddings`" in str(caught.value)


def test_a_missing_a_strange_and_a_misshapen_tensor_are_named(tmp_path: Path) -> None:
    tensors = dict(build(torch.float32).state_dict())
    bias = "model.layers.1.self_attn.q_proj.bias"
    wrong = {
        f"lacks tensor `{bias}`": {name: t for name, t in tensors.items() if name != bias},
        "holds tensor `model.layers.0.self_attn.q_norm.weight`": tensors
        | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)},
        "is [30], but config.json asks for [32]": tensors | {bias: torch.ones(30)},
    }
    for number, (message, broken) in enumerate(wrong.items()):
        with pytest.raises(CheckpointError) as caught:
            load_model(write(tmp_path / str(number), TINY, broken))
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "`hidden_act` is 'gelu', but only 'silu' is supported"),
        ({"use_sliding_window": True}, "`use_sliding_window` is True, but only False"),
        ({"rope_scaling": {"type": "yarn"}}, "`rope_scaling` is {'type': 'yarn'}, but only None"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "`layer_types` has 'sliding_"),
        ({"num_attention_heads": 5}, "`num_attention_heads`=5 must divide `hidden_size`=32"),
        ({"num_attention_heads": 32}, "the width of a head, 1, must be even"),
        ({"head_dim": 7}, "the width of a head, 7, must be even"),
        ({"num_key_value_heads": 3}, "`num_key_value_heads`=3 must divide"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` is 0; input should be greater than 0"),
        ({"hidden_size": "32"}, "`hidden_size` is '32'; input should be a valid integer"),
        ({"mask_token_id": 96}, "`mask_token_id`=96 must be under the vocabulary size, 96"),
        ({"eos_token_id": [1, 99]}, "`eos_token_id`=99 must be under"),
        ({"max_position_embeddings": 1}, "`max_position_embeddings`"),
    ],
    ids=str,
)
def test_an_unsupported_or_contradictory_config_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        Dream.from_config(TINY | changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["hidden_size", "num_attention_heads", "vocab_size", "mask_token_id", "rope_theta"]
)
def test_a_key_without_a_safe_default_may_not_be_missing(key: str) -> None:
    keys = {name: value for name, value in TINY.items() if name != key}
    with pytest.raises(CheckpointError, match=f"`{key}` is missing; add it"):
        Dream.from_config(keys)


def test_stop_tokens_come_from_generation_config_too(tmp_path: Path) -> None:
    write(tmp_path, TINY, build(torch.float32).state_dict())
    path = tmp_path / "generation_config.json"
    path.write_text('{"eos_token_id": [7, 94]}')
    assert load_model(tmp_path).spec.eos_ids == (94, 7)
    path.write_text('{"eos_token_id": 7}')
    assert load_model(tmp_path).spec.eos_ids == (94, 7)
    path.write_text("{}")
    assert load_model(tmp_path).spec.eos_ids == (94,)


@pytest.mark.parametrize("value", ["96", "[1, true]", '"x"', "-1"])
def test_stop_tokens_outside_of_the_vocabulary_are_refused(tmp_path: Path, value: str) -> None:
    write(tmp_path, TINY, build(torch.float32).state_dict())
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {value}}}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: `eos_token_id` is "):
        load_model(tmp_path)
