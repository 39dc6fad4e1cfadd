from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs.passing import captured, run_and_verify
from published.layout import write
from published.qwen import recomputed

from dllmc.models import _random, architectures, load_model
from dllmc.models.qwen2 import Qwen2
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TINY: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 256,
    "mask_token_id": 95,
    "eos_token_id": 94,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
# `config.json` of Qwen/Qwen2.5-0.5B-Instruct.
PUBLISHED: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def build(dtype: torch.dtype = torch.float64, **changes: Any) -> Qwen2:
    with torch.device("meta"):
        module, spec = Qwen2.from_config(TINY | changes)
    _random.fill(module, spec, 0, dtype, "cpu")
    return module


@pytest.mark.parametrize("length", [1, 7, 12])
@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}], ids=str)
def test_logits_equal_an_independent_computation(changes: dict[str, Any], length: int) -> None:
    module, keys = build(**changes), TINY | changes
    tokens = torch.randint(0, 96, (2, length))
    found = module(tokens)
    for row in range(2):
        expected = recomputed(keys, module.state_dict(), tokens[row], block_length=1)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_a_row_sees_itself_and_the_past_and_nothing_later() -> None:
    module = build()
    tokens = torch.randint(0, 90, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = 91
    moved = (module(tokens) - module(changed)).abs().amax(-1)[0]
    assert (moved[:7] == 0).all()
    assert (moved[7:] > 1e-6).all()


def test_the_published_sizes_give_their_parameters_and_facts() -> None:
    with torch.device("meta"):
        module, spec = Qwen2.from_config(PUBLISHED)
    assert sum(p.numel() for p in module.parameters()) == 494_032_768
    assert (spec.attention, spec.attention_block, spec.block_length) == ("causal", 1, None)
    assert (spec.role, spec.family, spec.logit_shift) == ("auxiliary", "auxiliary", 1)
    assert (spec.mask_id, spec.eos_ids, spec.max_length) == (151666, (151645,), 32768)
    assert (spec.prompt_slots, spec.pad_id) == (None, None)
    assert "Qwen2ForCausalLM" in architectures()


def test_prompt_slots_go_into_the_spec_with_what_fills_them() -> None:
    _, spec = Qwen2.from_config(TINY | {"prompt_slots": 8, "pad_token_id": 3})
    assert (spec.prompt_slots, spec.pad_id) == (8, 3)


def test_passes_match_as_often_as_declared() -> None:
    module = build()
    _, spec = Qwen2.from_config(TINY)
    graph, context = captured(module, spec)
    names = ("remove_noops", "match_rms_norm", "match_rotary", "match_swiglu", "match_attention")
    found = [run_and_verify(name, graph, context).matched for name in names]
    assert found[1:] == [5, 4, 2, 2]


def test_a_checkpoint_in_the_published_layout_loads(tmp_path: Path) -> None:
    module = build(torch.float32)
    loaded = load_model(write(tmp_path / "mine", TINY, module.state_dict()))
    tokens = torch.randint(0, 96, (2, 21))
    assert torch.equal(loaded.module(tokens), module(tokens))


def test_a_missing_and_a_misshapen_tensor_are_named(tmp_path: Path) -> None:
    tensors = dict(build(torch.float32).state_dict())
    bias = "model.layers.0.self_attn.q_proj.bias"
    lacking = {name: tensor for name, tensor in tensors.items() if name != bias}
    with pytest.raises(CheckpointError, match=f"lacks tensor `{bias}`"):
        load_model(write(tmp_path / "lacking", TINY, lacking))
    with pytest.raises(CheckpointError, match=f"tensor `{bias}`.*is .31., but"):
        load_model(write(tmp_path / "wrong", TINY, tensors | {bias: torch.ones(31)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_sliding_window": True}, "`use_sliding_window` is True"),
        ({"mask_token_id": 96}, "`mask_token_id`=96 must be under"),
        ({"prompt_slots": 8}, "`prompt_slots`=8 needs a `pad_token_id`"),
        ({"prompt_slots": 8, "pad_token_id": 96}, "`pad_token_id`=96 must be under"),
        ({"prompt_slots": 256, "pad_token_id": 0}, "`prompt_slots`=256 must be under"),
        ({"hidden_size": None}, "`hidden_size` is None"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Qwen2.from_config(TINY | changes)
    assert message in str(caught.value)
