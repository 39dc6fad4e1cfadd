"""Qwen bodies computed anew, one sequence, one head and one position at a time, in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def recomputed(
    keys: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    tokens: Tensor,
    block_length: int | None = None,
) -> Tensor:
    """Logits `[T, V]` of the tokens `[T]`, from the papers' formulas.

    Args:
        keys: Of `config.json`.
        weights: By their published names.
        tokens: One sequence.
        block_length: None where every position sees every other.
    """
    x = weights["model.embed_tokens.weight"][tokens].double()
    for layer in range(keys["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        mine = {name.removeprefix(f"{at}."): w for name, w in weights.items() if at in name}
        y = _norm(x, mine["input_layernorm.weight"], keys)
        x = x + _attention(y, mine, keys, block_length)
        y = _norm(x, mine["post_attention_layernorm.weight"], keys)
        gate, up = y @ mine["mlp.gate_proj.weight"].T, y @ mine["mlp.up_proj.weight"].T
        x = x + (gate / (1 + (-gate).exp()) * up) @ mine["mlp.down_proj.weight"].T
    tied = keys["tie_word_embeddings"]
    head = weights["model.embed_tokens.weight" if tied else "lm_head.weight"]
    return _norm(x, weights["model.norm.weight"], keys) @ head.T


def _attention(
    y: Tensor, weights: Mapping[str, Tensor], keys: Mapping[str, Any], block_length: int | None
) -> Tensor:
    heads, kv_heads = keys["num_attention_heads"], keys["num_key_value_heads"]
    width = keys.get("head_dim") or keys["hidden_size"] // heads
    outputs = torch.zeros(len(y), heads * width, dtype=torch.float64)
    for head in range(heads):
        shared = head * kv_heads // heads
        q = _projected(y, "q", head, width, weights, keys)
        k = _projected(y, "k", shared, width, weights, keys)
        v = _projected(y, "v", shared, width, weights, keys)
        for position in range(len(y)):
            seen = len(y)
            if block_length is not None:
                seen = min(seen, (position // block_length + 1) * block_length)
            scores = (k[:seen] @ q[position]) / math.sqrt(width)
            share = scores.exp() / scores.exp().sum()
            outputs[position, head * width : (head + 1) * width] = share @ v[:seen]
    return outputs @ weights["self_attn.o_proj.weight"].T


def _projected(
    y: Tensor,
    part: str,
    head: int,
    width: int,
    weights: Mapping[str, Tensor],
    keys: Mapping[str, Any],
) -> Tensor:
    """Q, K or V of one head, normalised where there is a norm for it, Q and K rotated."""
    mine = slice(head * width, (head + 1) * width)
    x = y @ weights[f"self_attn.{part}_proj.weight"][mine].T
    if f"self_attn.{part}_proj.bias" in weights:
        x = x + weights[f"self_attn.{part}_proj.bias"][mine]
    if f"self_attn.{part}_norm.weight" in weights:
        x = _norm(x, weights[f"self_attn.{part}_norm.weight"], keys)
    if part == "v":
        return x
    rate = keys["rope_theta"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(len(x), dtype=torch.float64)[:, None] * rate
    turn = torch.polar(torch.ones_like(angles), angles)
    turned = torch.complex(x[:, : width // 2], x[:, width // 2 :]) * turn
    return torch.cat((turned.real, turned.imag), dim=-1)


def _norm(x: Tensor, weight: Tensor, keys: Mapping[str, Any]) -> Tensor:
    size = (x.square().sum(-1) / x.shape[-1] + keys["rms_norm_eps"]).sqrt()
    normed: Tensor = x / size[:, None] * weight
    return normed
