"""LLaDA: a bidirectional Llama-style transformer trained to fill masks (arXiv 2502.09992).

The module names are those of the published checkpoints (`GSAI-ML/LLaDA-8B-*`), so that a
state dict loads without renaming. No cache and no tricks: the compiler derives those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmc.models._llada_config import LLaDAConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.spec import DenoiserSpec

ARCHITECTURES = ("LLaDAModelLM",)


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


def rotary_table(length: int, config: LLaDAConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each `[1, 1, length, head_dim]`, in float32 or better."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    half = torch.arange(0, config.head_dim, 2, device=like.device, dtype=dtype)
    frequency = 1.0 / (config.rope_theta ** (half / config.head_dim))
    angle = torch.arange(length, device=like.device, dtype=dtype)[:, None] * frequency
    angle = torch.cat((angle, angle), dim=-1)[None, None]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class LLaDABlock(nn.Module):
    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden, bias = config.d_model, config.mlp_width, config.include_qkv_bias
        kv_width = config.kv_heads * config.head_dim
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, kv_width, bias=bias)
        self.v_proj = nn.Linear(width, kv_width, bias=bias)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        head_dim, grouped = self.config.head_dim, self.config.kv_heads < self.config.n_heads
        y = self.attn_norm(x)
        q = self.q_proj(y).view(batch, length, -1, head_dim).transpose(1, 2)
        k = self.k_proj(y).view(batch, length, -1, head_dim).transpose(1, 2)
        v = self.v_proj(y).view(batch, length, -1, head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=False, enable_gqa=grouped)
        x = x + self.attn_out(y.transpose(1, 2).reshape(batch, length, width))
        y = self.ff_norm(x)
        update: Tensor = self.ff_out(F.silu(self.ff_proj(y)) * self.up_proj(y))
        return x + update


class LLaDATransformer(nn.Module):
    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.embedding_rows, config.d_model)
        self.blocks = nn.ModuleList(LLaDABlock(config) for _ in range(config.n_layers))
        self.ln_f = RMSNorm(config.d_model, config.rms_norm_eps)
        if not config.weight_tying:
            self.ff_out = nn.Linear(config.d_model, config.embedding_rows, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens)
        cos, sin = rotary_table(tokens.shape[1], self.config, x)
        for block in self.blocks:
            x = block(x, cos, sin)
        head = self.wte if self.config.weight_tying else self.ff_out
        return F.linear(self.ln_f(x), head.weight)


class LLaDA(nn.Module):
    """Tokens `[B, T]` int64 -> logits `[B, T, vocab]`; every position sees every position."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config = config
        self.model = nn.ModuleDict({"transformer": LLaDATransformer(config)})

    @classmethod
    def from_config(cls, keys: Mapping[str, object]) -> tuple[LLaDA, DenoiserSpec]:
        """Build the module and its spec from the keys of `config.json`.

        Raises:
            CheckpointError: A key is missing or wrong, or asks for what is not supported.
        """
        config = LLaDAConfig.parse(keys)
        return cls(config), config.spec()

    def expected_matches(self) -> dict[str, int]:
        """How often each compiler pass must match, so that none stops matching unnoticed."""
        layers = self.config.n_layers
        return {
            "match_rms_norm": 2 * layers + 1,
            "match_rotary": 2 * layers,
            "match_swiglu": layers,
            "merge_projections": 2 * layers,
        }

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model["transformer"](tokens)
        return logits
