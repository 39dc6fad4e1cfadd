"""LLaDA2.0 (arXiv 2512.15745) and LLaDA2.1: block diffusion with a mixture of experts.

For `inclusionAI/LLaDA2.*-mini` and `-flash`. The body is that of Ling 2.0: half of each head
turns, the first layers are dense, and each row goes through the shared experts and through k of
the others, chosen from the best groups by scores that a bias balances (arXiv 2408.15664). Blocks
are counted from the canvas start; a row sees everything up to the end of its own block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmc.models._llada2_config import LLaDA2Config
from dllmc.models._moe import Experts, GatedMLP, in_single, stored_experts
from dllmc.models._qwen import block_causal_mask, rotary_table
from dllmc.models.llada import RMSNorm, rotate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.models._stacked import Stacks
    from dllmc.spec import DenoiserSpec

# LLaDA2.1 differs in its training and in its decoder, which edits tokens.
ARCHITECTURES = ("LLaDA2MoeModelLM",)


class LLaDA2Attention(nn.Module):
    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        self.config = config
        self.heads = [config.num_attention_heads, config.kv_heads, config.kv_heads]
        width = config.num_attention_heads * config.head_dim
        self.query_key_value = nn.Linear(
            config.hidden_size, sum(self.heads) * config.head_dim, bias=False
        )
        self.query_layernorm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.key_layernorm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.dense = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        heads = self.query_key_value(x).view(batch, length, -1, self.config.head_dim)
        q, k, v = heads.transpose(1, 2).split(self.heads, dim=1)
        q = self.turned(self.query_layernorm(q), cos, sin)
        k = self.turned(self.key_layernorm(k), cos, sin)
        grouped = self.heads[1] < self.heads[0]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=False, enable_gqa=grouped
        )
        out: Tensor = self.dense(y.transpose(1, 2).reshape(batch, length, -1))
        return out

    def turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width = self.config.rotary_width
        if width == self.config.head_dim:
            return rotate(x, cos, sin)
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)


class LLaDA2Gate(nn.Module):
    """Which experts, `[..., k]`, and their weights, `[..., k]`."""

    expert_bias: Tensor

    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts, dtype=torch.float32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        scores = F.linear(in_single(x), in_single(self.weight)).sigmoid()
        # The bias decides who is chosen, not with which weight.
        groups = (scores + self.expert_bias).unflatten(-1, (config.n_group, -1))
        best = groups.topk(2, dim=-1).values.sum(-1).topk(config.topk_group, dim=-1).indices
        kept = torch.zeros_like(groups[..., 0], dtype=torch.bool).scatter(-1, best, True)
        eligible = groups.masked_fill(~kept[..., None], -torch.inf).flatten(-2)
        ids = eligible.topk(config.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, ids)
        if config.num_experts_per_tok > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return ids, weights * config.routed_scaling_factor


class LLaDA2MoE(nn.Module):
    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.moe_intermediate_size
        self.gate = LLaDA2Gate(config)
        self.experts = Experts(config.num_experts, width, hidden)
        self.shared_experts = GatedMLP(width, hidden * config.num_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts(x, *self.gate(x)) + self.shared_experts(x)
        return out


class LLaDA2Layer(nn.Module):
    def __init__(self, config: LLaDA2Config, number: int) -> None:
        super().__init__()
        dense = number < config.first_k_dense_replace
        self.attention = LLaDA2Attention(config)
        self.mlp = (
            GatedMLP(config.hidden_size, config.intermediate_size) if dense else LLaDA2MoE(config)
        )
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.input_layernorm(x), cos, sin, mask)
        update: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + update


class LLaDA2Body(nn.Module):
    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LLaDA2Layer(config, number) for number in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.word_embeddings(tokens)
        cos, sin = rotary_table(tokens.shape[1], self.config, x)
        mask = block_causal_mask(tokens.shape[1], self.config.block_length, x.device)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        out: Tensor = self.norm(x)
        return out


class LLaDA2(nn.Module):
    """Tokens `[B, T]` int64 -> logits `[B, T, vocab]`, each row's for its own position."""

    def __init__(self, config: LLaDA2Config) -> None:
        super().__init__()
        self.config = config
        self.model = LLaDA2Body(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_config(cls, keys: Mapping[str, object]) -> tuple[LLaDA2, DenoiserSpec]:
        """Build the module and its spec from the keys of `config.json`.

        Raises:
            CheckpointError: A key is missing or wrong, or asks for what is not supported.
        """
        config = LLaDA2Config.parse(keys)
        return cls(config), config.spec()

    @property
    def stored_as(self) -> Stacks:
        """The stored tensors that each stacked parameter is made of."""
        return stored_experts(self)

    def expected_matches(self) -> dict[str, int]:
        """How often each compiler pass must match, so that none stops matching unnoticed."""
        layers = self.config.num_hidden_layers
        return {
            "match_rms_norm": 4 * layers + 1,
            "match_rotary": 2 * layers,
            "match_swiglu": layers,
            "merge_projections": layers,
        }

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.model(tokens))
        return logits
