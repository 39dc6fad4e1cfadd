"""Models with random weights, for benchmarks and tests: `random:SHAPE`."""

from __future__ import annotations

from typing import Any

_LLADA: dict[str, Any] = {
    "architectures": ["LLaDAModelLM"],
    "model_type": "llada",
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "layer_norm_type": "rms",
    "mlp_ratio": 4,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "weight_tying": False,
}


def _llada(
    width: int, heads: int, kv_heads: int, layers: int, hidden: int, vocabulary: int, length: int
) -> dict[str, Any]:
    return _LLADA | {
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": kv_heads,
        "n_layers": layers,
        "mlp_hidden_size": hidden,
        "vocab_size": vocabulary,
        "embedding_size": vocabulary,
        "max_sequence_length": length,
        "mask_token_id": vocabulary - 1,
        "eos_token_id": vocabulary - 2,
        "pad_token_id": vocabulary - 2,
    }


def _qwen(
    name: str, width: int, heads: int, kv_heads: int, layers: int, hidden: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "architectures": [name],
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 256,
        "mask_token_id": vocabulary - 1,
        "eos_token_id": vocabulary - 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
    }


def _mixture(name: str, experts: int, chosen: int, body: dict[str, Any]) -> dict[str, Any]:
    routed = {"num_experts": experts, "num_experts_per_tok": chosen}
    return body | routed | {"architectures": [name]}


def _llada_moe(experts: int, chosen: int, hidden: int, body: dict[str, Any]) -> dict[str, Any]:
    layers, dense = body["num_hidden_layers"], body["intermediate_size"]
    return _mixture("LLaDAMoEModelLM", experts, chosen, body) | {
        "dense_intermediate_size": dense,
        "expert_intermediate_size": hidden,
        "moe_layer_freq": [1] * layers,
        "qk_layernorm": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
    }


def _llada2(
    experts: int, chosen: int, groups: tuple[int, int], hidden: int, body: dict[str, Any]
) -> dict[str, Any]:
    return _mixture("LLaDA2MoeModelLM", experts, chosen, body) | {
        "first_k_dense_replace": 1,
        "moe_intermediate_size": hidden,
        "n_group": groups[0],
        "num_shared_experts": 1,
        "partial_rotary_factor": 0.5,
        "rope_theta": 600000.0,
        "routed_scaling_factor": 2.5,
        "topk_group": groups[1],
    }


_DREAM, _SDAR, _FAST_V2 = "DreamModel", "SDARForCausalLM", "Fast_dLLM_QwenForCausalLM"

SHAPES: dict[str, dict[str, Any]] = {
    "llada-8b": _llada(4096, 32, 32, 32, 12288, 126464, 4096)
    | {"mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081},
    "llada-1b": _llada(2048, 16, 16, 16, 5632, 32000, 4096),
    "llada-60m": _llada(512, 8, 8, 16, 1408, 8192, 4096),
    "llada-7m": _llada(256, 4, 4, 6, 704, 4096, 4096),
    "llada-tiny": _llada(32, 4, 4, 2, 64, 96, 256),
    "llada-tiny-gqa": _llada(32, 4, 2, 2, 64, 96, 256),
    "dream-7b": _qwen(_DREAM, 3584, 28, 4, 28, 18944, 152064)
    | {"max_position_embeddings": 131072, "mask_token_id": 151666, "eos_token_id": 151643},
    "dream-tiny": _qwen(_DREAM, 32, 4, 2, 2, 64, 96),
    "sdar-4b": _qwen(_SDAR, 2560, 32, 8, 36, 9728, 151936)
    | {"head_dim": 128, "block_size": 4, "max_position_embeddings": 32768}
    | {"mask_token_id": 151669, "eos_token_id": [151643, 151645]},
    "sdar-tiny": _qwen(_SDAR, 32, 4, 2, 2, 64, 96) | {"head_dim": 16, "block_size": 8},
    "fast-dllm-v2-7b": _qwen(_FAST_V2, 3584, 28, 4, 28, 18944, 152064)
    | {"bd_size": 32, "max_position_embeddings": 32768}
    | {"mask_token_id": 151665, "eos_token_id": 151645},
    "fast-dllm-v2-tiny": _qwen(_FAST_V2, 32, 4, 2, 2, 64, 96) | {"bd_size": 8},
    "llada-moe-7b": _llada_moe(64, 8, 1024, _qwen("", 2048, 16, 16, 16, 8192, 157184))
    | {"max_position_embeddings": 8192, "mask_token_id": 156895, "eos_token_id": 156892},
    "llada-moe-tiny": _llada_moe(8, 2, 16, _qwen("", 32, 4, 4, 2, 64, 96)),
    "llada2-mini": _llada2(256, 8, (8, 4), 512, _qwen("", 2048, 16, 4, 20, 5120, 157184))
    | {"head_dim": 128, "block_size": 32, "max_position_embeddings": 32768}
    | {"mask_token_id": 156895, "eos_token_id": 156892},
    "llada2-tiny": _llada2(8, 2, (4, 2), 16, _qwen("", 32, 4, 2, 2, 64, 96))
    | {"head_dim": 16, "block_size": 8},
    "sdar-moe-tiny": _mixture("SDARMoeForCausalLM", 8, 2, _qwen("", 32, 4, 2, 2, 64, 96))
    | {"head_dim": 16, "block_size": 8, "moe_intermediate_size": 16, "norm_topk_prob": True},
}
