"""Mixtures of experts computed anew in float64: a loop over rows, heads and experts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    Weights = Mapping[str, Tensor]
    Keys = Mapping[str, Any]


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The state of a denoiser as it is published: a tensor per expert and projection."""
    found: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        base, _, last = name.rpartition(".")
        if last == "gate_up":
            half = tensor.shape[1] // 2
            for expert, both in enumerate(tensor):
                found[f"{base}.{expert}.gate_proj.weight"] = both[:half].clone()
                found[f"{base}.{expert}.up_proj.weight"] = both[half:].clone()
        elif last == "down":
            for expert, one in enumerate(tensor):
                found[f"{base}.{expert}.down_proj.weight"] = one.clone()
        else:
            found[name] = tensor
    return found


def softmax_mixture(
    keys: Keys,
    weights: Weights,
    tokens: Tensor,
    block_length: int | None = None,
    dense: tuple[int, ...] = (),
) -> Tensor:
    """Logits `[T, V]` of LLaDA-MoE, or with blocks of SDAR-MoE."""
    x = weights["model.embed_tokens.weight"][tokens].double()
    for layer in range(keys["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        y = normed(x, weights[f"{at}.input_layernorm.weight"], keys)
        qkv = [y @ weights[f"{at}.self_attn.{part}_proj.weight"].T for part in "qkv"]
        norms = [weights[f"{at}.self_attn.{part}_norm.weight"] for part in "qk"]
        x = (
            x
            + attended(qkv, norms, keys, block_length) @ weights[f"{at}.self_attn.o_proj.weight"].T
        )
        y = normed(x, weights[f"{at}.post_attention_layernorm.weight"], keys)
        if layer in dense:
            x = x + gated(y, f"{at}.mlp", weights)
        else:
            x = x + softmax_routed(y, f"{at}.mlp", keys, weights)
    return normed(x, weights["model.norm.weight"], keys) @ weights["lm_head.weight"].T


def grouped_mixture(keys: Keys, weights: Weights, tokens: Tensor) -> Tensor:
    """Logits `[T, V]` of LLaDA2."""
    heads, kv_heads = keys["num_attention_heads"], keys["num_key_value_heads"]
    sizes = [count * keys["head_dim"] for count in (heads, kv_heads, kv_heads)]
    x = weights["model.word_embeddings.weight"][tokens].double()
    for layer in range(keys["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        y = normed(x, weights[f"{at}.input_layernorm.weight"], keys)
        qkv = (y @ weights[f"{at}.attention.query_key_value.weight"].T).split(sizes, dim=-1)
        norms = [weights[f"{at}.attention.{part}_layernorm.weight"] for part in ("query", "key")]
        y = attended(list(qkv), norms, keys, keys.get("block_size", 32))
        x = x + y @ weights[f"{at}.attention.dense.weight"].T
        y = normed(x, weights[f"{at}.post_attention_layernorm.weight"], keys)
        if layer < keys["first_k_dense_replace"]:
            x = x + gated(y, f"{at}.mlp", weights)
        else:
            shared = gated(y, f"{at}.mlp.shared_experts", weights)
            x = x + group_routed(y, f"{at}.mlp", keys, weights) + shared
    return normed(x, weights["model.norm.weight"], keys) @ weights["lm_head.weight"].T


def normed(x: Tensor, weight: Tensor, keys: Keys) -> Tensor:
    size = (x.square().sum(-1) / x.shape[-1] + keys["rms_norm_eps"]).sqrt()
    found: Tensor = x / size[..., None] * weight
    return found


def gated(y: Tensor, at: str, weights: Weights) -> Tensor:
    gate, up = (y @ weights[f"{at}.{part}_proj.weight"].double().T for part in ("gate", "up"))
    return (gate / (1 + (-gate).exp()) * up) @ weights[f"{at}.down_proj.weight"].double().T


def attended(
    qkv: list[Tensor], norms: list[Tensor], keys: Keys, block_length: int | None
) -> Tensor:
    heads, kv_heads = keys["num_attention_heads"], keys["num_key_value_heads"]
    width = keys.get("head_dim") or keys["hidden_size"] // heads
    length = len(qkv[0])
    outputs = torch.zeros(length, heads * width, dtype=torch.float64)
    for head in range(heads):
        mine, shared = slice(head * width, (head + 1) * width), head * kv_heads // heads
        theirs = slice(shared * width, (shared + 1) * width)
        q = rotated(normed(qkv[0][:, mine], norms[0], keys), keys)
        k = rotated(normed(qkv[1][:, theirs], norms[1], keys), keys)
        for row in range(length):
            last = length
            if block_length is not None:
                last = min(length, (row // block_length + 1) * block_length)
            scores = (k[:last] @ q[row] / math.sqrt(width)).exp()
            outputs[row, mine] = (scores / scores.sum()) @ qkv[2][:last, theirs]
    return outputs


def rotated(x: Tensor, keys: Keys) -> Tensor:
    width = int(x.shape[1] * (keys.get("partial_rotary_factor") or 1))
    rates = keys["rope_theta"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(len(x), dtype=torch.float64)[:, None] * rates
    pairs = torch.complex(x[:, : width // 2], x[:, width // 2 : width])
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag, x[:, width:]), dim=-1)


def softmax_routed(y: Tensor, at: str, keys: Keys, weights: Weights) -> Tensor:
    result = torch.zeros_like(y)
    for row, logits in enumerate((y @ weights[f"{at}.gate.weight"].double().T).tolist()):
        total = sum(math.exp(logit) for logit in logits)
        share = {expert: math.exp(logit) / total for expert, logit in enumerate(logits)}
        chosen = best(share, keys["num_experts_per_tok"])
        scale = sum(share[expert] for expert in chosen) if keys.get("norm_topk_prob") else 1.0
        for expert in chosen:
            output = gated(y[row], f"{at}.experts.{expert}", weights)
            result[row] += share[expert] / scale * output
    return result


def group_routed(y: Tensor, at: str, keys: Keys, weights: Weights) -> Tensor:
    size, result = keys["num_experts"] // keys["n_group"], torch.zeros_like(y)
    bias = weights[f"{at}.gate.expert_bias"].tolist()
    for row, logits in enumerate((y @ weights[f"{at}.gate.weight"].double().T).tolist()):
        share = {expert: 1 / (1 + math.exp(-logit)) for expert, logit in enumerate(logits)}
        ranked = {expert: share[expert] + bias[expert] for expert in share}
        groups = {
            group: sum(sorted(ranked[e] for e in ranked if e // size == group)[-2:])
            for group in range(keys["n_group"])
        }
        open_groups = best(groups, keys["topk_group"])
        eligible = {e: rank for e, rank in ranked.items() if e // size in open_groups}
        chosen = best(eligible, keys["num_experts_per_tok"])
        scale = sum(share[expert] for expert in chosen) if len(chosen) > 1 else 1.0
        for expert in chosen:
            weight = share[expert] / scale * keys["routed_scaling_factor"]
            result[row] += weight * gated(y[row], f"{at}.experts.{expert}", weights)
    return result


def best(scores: Mapping[int, float], count: int) -> list[int]:
    return sorted(scores, key=lambda one: -scores[one])[:count]
