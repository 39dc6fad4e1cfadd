"""Denoisers in the manner of modelling files that come with checkpoints.

They have a configuration, take what such forwards take, return objects, switch autocast and
gradients off around tables, keep tables for the next call, and choose attention by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB, MASK = 17, 16


@dataclass
class Config:
    """As a published `config.json`, read."""

    model_type: str = "foreign"
    vocab_size: int = VOCAB
    hidden_size: int = 24
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 48
    rope_theta: float = 1e4
    rms_norm_eps: float = 1e-6
    mask_token_id: int = MASK
    eos_token_id: int | list[int] | None = field(default_factory=lambda: [0, 1])
    use_cache: bool = True
    use_return_dict: bool = False
    attn_implementation: str = "eager"

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass
class MaskedOutput:
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(v for v in (self.loss, self.logits, self.hidden_states) if v is not None)


class FloatNorm(nn.Module):
    """In float32, whatever comes in."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        dtype = hidden.dtype
        hidden = hidden.to(torch.float32)
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.eps)).to(dtype)


class Rotation(nn.Module):
    """Angles in float32, with autocast and gradients off."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        places = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float()
        rates = 1.0 / (config.rope_theta ** (places / config.head_dim))
        self.register_buffer("inv_freq", rates, persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        rates = self.inv_freq[None, :, None].float().expand(position_ids.shape[0], -1, 1)
        places = position_ids[:, None, :].float()
        with torch.autocast(device_type=x.device.type, enabled=False):
            turns = (rates.float() @ places.float()).transpose(1, 2)
            turns = torch.cat((turns, turns), dim=-1)
            cos, sin = turns.cos(), turns.sin()
        return cos.to(dtype=x.dtype), sin.to(dtype=x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def repeat_heads(x: Tensor, times: int) -> Tensor:
    batch, heads, length, width = x.shape
    if times == 1:
        return x
    x = x[:, :, None, :, :].expand(batch, heads, times, length, width)
    return x.reshape(batch, heads * times, length, width)


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * scale
    if mask is not None:
        scores = scores + mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(weights, v)


def scaled_dot_product(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, is_causal=False)


ATTENTION = {"eager": written_out, "sdpa": scaled_dot_product}


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, kv_width)
        self.v_proj = nn.Linear(width, kv_width)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, tables: tuple[Tensor, Tensor]) -> Tensor:
        shape = (*x.shape[:-1], -1, self.config.head_dim)
        q = self.q_proj(x).view(shape).transpose(1, 2)
        k = self.k_proj(x).view(shape).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        cos, sin = (table.unsqueeze(1) for table in tables)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        times = self.config.num_attention_heads // self.config.num_key_value_heads
        attend = ATTENTION[self.config.attn_implementation]
        y = attend(
            q, repeat_heads(k, times), repeat_heads(v, times), mask, self.config.head_dim**-0.5
        )
        return self.o_proj(y.transpose(1, 2).contiguous().reshape(*x.shape[:-1], -1))


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config)
        self.gate_proj = nn.Linear(width, 2 * width, bias=False)
        self.up_proj = nn.Linear(width, 2 * width, bias=False)
        self.down_proj = nn.Linear(2 * width, width, bias=False)
        self.input_layernorm = FloatNorm(width, eps)
        self.post_attention_layernorm = FloatNorm(width, eps)

    def forward(self, x: Tensor, mask: Tensor | None, tables: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, tables)
        y = self.post_attention_layernorm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class ForeignLM(nn.Module):
    """Attention by name from a registry; an output object or a tuple."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = FloatNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Rotation(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight.data *= 4
        self.eval()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MaskedOutput | tuple[Any, ...]:
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        use_cache = use_cache if use_cache is not None else self.config.use_cache
        assert not use_cache, "there is no cache here"
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        tables = self.rotary_emb(x, position_ids)
        for layer in self.layers:
            x = layer(x, attention_mask, tables)
        logits = self.lm_head(self.norm(x)).float()
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        output = MaskedOutput(loss, logits, (x,))
        return output if return_dict else output.to_tuple()


class Tables(dict[str, Tensor]):
    """Shared by all layers, and kept between calls."""


class StatefulOutput(NamedTuple):
    logits: Tensor
    attn_key_values: list[Tensor] | None


class StatefulLM(nn.Module):
    """Norms under autocast, tables kept in a dict, halves taken apart by `unbind`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.config = config
        self._tables = Tables()
        width = config.hidden_size
        self.wte = nn.Embedding(config.vocab_size, width)
        self.norms = nn.ParameterList(torch.ones(width) for _ in range(2))
        self.att_proj = nn.Linear(width, 3 * width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_out = nn.Linear(width, config.vocab_size, bias=False)
        self.ff_out.weight.data *= 5
        self.eval()

    def table(self, length: int, device: torch.device) -> Tensor:
        if "turns" not in self._tables or self._tables["turns"].shape[-2] < length:
            with torch.autocast(device.type, enabled=False):
                width = self.config.head_dim
                rates = 1.0 / (
                    1e3 ** (torch.arange(0, width, 2, device=device, dtype=torch.float) / width)
                )
                places = torch.arange(length, device=device, dtype=torch.float)
                turns = torch.einsum("i , j -> i j", places, rates)
                self._tables["turns"] = torch.cat((turns, turns), dim=-1)[None, None]
        return self._tables["turns"][:, :, :length, :]

    def rotate(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.size()
        turns = self.table(length, x.device)
        wide = x.float()
        with torch.autocast(x.device.type, enabled=False):
            cos, sin = turns.cos().type_as(wide), turns.sin().type_as(wide)
            first, second = wide.view(batch, heads, length, 2, width // 2).unbind(dim=-2)
            turned = (wide * cos) + (torch.cat((-second, first), dim=-1) * sin)
        return turned.type_as(x)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast(enabled=False, device_type=x.device.type):
            dtype = x.dtype
            x = x.to(torch.float32)
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
            x = x.to(dtype)
        return weight * x

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> StatefulOutput:
        x = self.wte(input_ids)
        batch, length, width = x.shape
        parts = self.att_proj(self.norm(x, self.norms[0])).split(width, dim=-1)
        q, k, v = (
            part.view(batch, length, -1, self.config.head_dim).transpose(1, 2) for part in parts
        )
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, dropout_p=0.0)
        x = x + self.attn_out(y.transpose(1, 2).contiguous().view(batch, length, width))
        return StatefulOutput(self.ff_out(self.norm(x, self.norms[1])), [k] if use_cache else None)


class PaddedLM(ForeignLM):
    """Requires a padding mask, which it makes additive; returns a dict."""

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any
    ) -> dict[str, Tensor | None]:
        mask = attention_mask[:, None, None, :].to(self.lm_head.weight.dtype)
        mask = (1.0 - mask) * torch.finfo(mask.dtype).min
        output = super().forward(input_ids, mask, use_cache=False, return_dict=True)
        assert isinstance(output, MaskedOutput)
        return {"loss": None, "logits": output.logits}
