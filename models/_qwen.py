"""The body that Dream, SDAR and Fast-dLLM v2 share: Qwen2.5 (arXiv 2412.15115) and Qwen3.

The module names are those of the published checkpoints, so that a state dict loads without
renaming. Qwen2.5 has biases on Q, K and V; Qwen3 (arXiv 2505.09388) normalises each head of Q
and K instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmc.models.llada import RMSNorm, rotate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.models._qwen_config import QwenConfig
    from dllmc.spec import DenoiserSpec


def rotary_table(length: int, config: QwenConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each `[1, 1, length, rotary_width]`, in float32 or better."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    width = config.rotary_width
    half = torch.arange(0, width, 2, device=like.device, dtype=dtype)
    frequency = 1.0 / (config.rope_theta ** (half / width))
    angle = torch.arange(length, device=like.device, dtype=dtype)[:, None] * frequency
    angle = torch.cat((angle, angle), dim=-1)[None, None]
    return angle.cos(), angle.sin()


def block_causal_mask(length: int, block_length: int, device: torch.device) -> Tensor:
    """`[length, length]`, True where the row sees the key: up to the end of the row's block."""
    block = torch.arange(length, device=device) // block_length
    return block[:, None] >= block[None, :]


class QwenAttention(nn.Module):
    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.grouped = config.kv_heads < config.num_attention_heads
        q_width = config.num_attention_heads * config.head_width
        kv_width = config.kv_heads * config.head_width
        self.q_proj = nn.Linear(config.hidden_size, q_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_width, config.hidden_size, bias=False)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_width, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_width, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, -1, self.head_width).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, -1, self.head_width).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, -1, self.head_width).transpose(1, 2)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=False, enable_gqa=self.grouped
        )
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))
        return out


class QwenMLP(nn.Module):
    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class QwenLayer(nn.Module):
    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.self_attn = QwenAttention(config)
        self.mlp = QwenMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        update: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + update


class QwenBody(nn.Module):
    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(QwenLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens: Tensor) -> Tensor:
        length, block_length = tokens.shape[1], self.config.block_length
        x: Tensor = self.embed_tokens(tokens)
        cos, sin = rotary_table(length, self.config, x)
        mask = None if block_length is None else block_causal_mask(length, block_length, x.device)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        out: Tensor = self.norm(x)
        return out


class QwenDenoiser(nn.Module):
    """Tokens `[B, T]` int64 -> logits `[B, T, vocab]`, as they stand in their rows: not shifted.

    Every position sees every position, or, with blocks, all up to the end of its own block.
    """

    config_type: ClassVar[type[QwenConfig]]

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        self.model = QwenBody(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def from_config(cls, keys: Mapping[str, object]) -> tuple[Self, DenoiserSpec]:
        """Build the module and its spec from the keys of `config.json`.

        Raises:
            CheckpointError: A key is missing or wrong, or asks for what is not supported.
        """
        config = cls.config_type.parse(keys)
        return cls(config), config.spec()

    @property
    def copies(self) -> dict[str, str]:
        """Tensors that a checkpoint may hold a second time, with those that they must equal."""
        tied = self.config.tie_word_embeddings
        return {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}

    def expected_matches(self) -> dict[str, int]:
        """How often each compiler pass must match, so that none stops matching unnoticed."""
        layers = self.config.num_hidden_layers
        norms_per_layer = 4 if self.config.qk_norm else 2
        return {
            "match_rms_norm": norms_per_layer * layers + 1,
            "match_rotary": 2 * layers,
            "match_swiglu": layers,
            "merge_projections": 2 * layers,
        }

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model(tokens)
        tied = self.config.tie_word_embeddings
        return F.linear(x, self.model.embed_tokens.weight if tied else self.lm_head.weight)
