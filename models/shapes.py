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


SHAPES: dict[str, dict[str, Any]] = {
    "llada-8b": _llada(4096, 32, 32, 32, 12288, 126464, 4096)
    | {"mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081},
    "llada-60m": _llada(512, 8, 8, 16, 1408, 8192, 4096),
    "llada-7m": _llada(256, 4, 4, 6, 704, 4096, 4096),
    "llada-tiny": _llada(32, 4, 4, 2, 64, 96, 256),
    "llada-tiny-gqa": _llada(32, 4, 2, 2, 64, 96, 256),
}
