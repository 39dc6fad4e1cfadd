"""Denoisers as other people write them: no two share a spelling."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmc.spec import DenoiserSpec

VOCAB, MASK, WIDTH, HEADS, GROUPS, HEAD, LONGEST, LAYERS = 13, 12, 16, 4, 2, 4, 32, 2
SPEC = DenoiserSpec(mask_id=MASK, vocab_size=VOCAB, max_length=LONGEST, eos_ids=(0,))


def half_turn(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class NeoXLayer(nn.Module):
    """Parallel residual, fused QKV by heads, a quarter... here half of each head rotated."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(WIDTH)
        self.post_attention_layernorm = nn.LayerNorm(WIDTH)
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.dense = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.query_key_value(x).view(batch, length, HEADS, 3 * HEAD)
        query = qkv[..., :HEAD].permute(0, 2, 1, 3)
        key = qkv[..., HEAD : 2 * HEAD].permute(0, 2, 1, 3)
        value = qkv[..., 2 * HEAD :].permute(0, 2, 1, 3)
        turning = cos.shape[-1]
        turned = [
            torch.cat(
                (y[..., :turning] * cos + half_turn(y[..., :turning]) * sin, y[..., turning:]), -1
            )
            for y in (query, key)
        ]
        scores = torch.matmul(turned[0], turned[1].transpose(-1, -2)) / math.sqrt(HEAD)
        weights = self.dropout(F.softmax(scores, dim=-1).to(value.dtype))
        mixed = torch.matmul(weights, value)
        return self.dense(mixed.permute(0, 2, 1, 3).contiguous().view(batch, length, WIDTH))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attended = self.attend(self.input_layernorm(x), cos, sin)
        fed = self.down(F.gelu(self.up(self.post_attention_layernorm(x))))
        return fed + attended + x


class NeoX(nn.Module):
    """GPT-NeoX: tables of the longest canvas in a buffer, sliced by the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_in = nn.Embedding(VOCAB, WIDTH)
        self.layers = nn.ModuleList(NeoXLayer() for _ in range(LAYERS))
        self.final_layer_norm = nn.LayerNorm(WIDTH)
        self.embed_out = nn.Linear(WIDTH, VOCAB, bias=False)
        turning = HEAD // 2
        rates = 1.0 / (10 ** (torch.arange(0, turning, 2).float() / turning))
        turns = torch.outer(torch.arange(LONGEST).float(), rates)
        turns = torch.cat((turns, turns), dim=-1)
        self.register_buffer("cos_cached", turns.cos()[None, None])
        self.register_buffer("sin_cached", turns.sin()[None, None])

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed_in(input_ids)
        length = input_ids.shape[1]
        cos, sin = self.cos_cached[:, :, :length], self.sin_cached[:, :, :length]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.embed_out(self.final_layer_norm(x))


class GPTJ(nn.Module):
    """Interleaved rotation, one norm for attention and feed-forward, softmax in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCAB, WIDTH)
        self.ln = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.qkvo = nn.ModuleList(
            nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
            for _ in range(LAYERS)
        )
        self.fc_in = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(LAYERS))
        self.fc_out = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.lm_head = nn.Linear(WIDTH, VOCAB)
        self.register_buffer("scale_attn", torch.sqrt(torch.tensor(float(HEAD))))
        rates = 1.0 / (10 ** (torch.arange(0, HEAD, 2) / HEAD))
        turns = torch.einsum("i,j->ij", torch.arange(LONGEST).float(), rates)
        self.register_buffer("embed_positions", torch.cat((turns.sin(), turns.cos()), dim=1))

    @staticmethod
    def rotate_every_two(x: Tensor) -> Tensor:
        even, odd = x[:, :, :, ::2], x[:, :, :, 1::2]
        return torch.stack((-odd, even), dim=-1).flatten(-2)

    def turned(self, x: Tensor, position_ids: Tensor) -> Tensor:
        sin, cos = self.embed_positions[position_ids].chunk(2, dim=-1)
        sin = torch.repeat_interleave(sin[:, :, None, :], 2, 3)
        cos = torch.repeat_interleave(cos[:, :, None, :], 2, 3)
        return (x * cos) + (self.rotate_every_two(x) * sin)

    def attend(self, x: Tensor, layer: Any, position_ids: Tensor) -> Tensor:
        heads = (*x.shape[:2], HEADS, HEAD)
        query, key, value = (layer[i](x).view(heads) for i in range(3))
        query = self.turned(query, position_ids).permute(0, 2, 1, 3).to(torch.float32)
        key = self.turned(key, position_ids).permute(0, 2, 1, 3).to(torch.float32)
        weights = torch.matmul(query, key.transpose(-1, -2)) / self.scale_attn
        weights = F.softmax(weights, dim=-1).to(value.dtype)
        mixed = torch.matmul(weights, value.permute(0, 2, 1, 3))
        return layer[3](mixed.permute(0, 2, 1, 3).reshape(x.shape))

    def forward(self, input_ids: Tensor) -> Tensor:
        position_ids = torch.arange(input_ids.shape[-1], device=input_ids.device).unsqueeze(0)
        x = self.wte(input_ids)
        for norm, qkvo, up, down in zip(self.ln, self.qkvo, self.fc_in, self.fc_out, strict=True):
            normed = norm(x)
            x = (
                x
                + self.attend(normed, qkvo, position_ids)
                + down(F.gelu(up(normed), approximate="tanh"))
            )
        return self.lm_head(self.ln_f(x)).to(torch.float32)


class LlamaNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return normed.type_as(x) * self.weight


def turned_as_complex(x: Tensor, freqs: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * freqs[None, :, None, :]).flatten(3).type_as(x)


def repeat_kv(x: Tensor, times: int) -> Tensor:
    batch, length, groups, width = x.shape
    wide = x[:, :, :, None, :].expand(batch, length, groups, times, width)
    return wide.reshape(batch, length, groups * times, width)


class Llama(nn.Module):
    """Meta's: rotation as a complex product, positions before heads, eager attention."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCAB, WIDTH)
        self.wq = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.wkv = nn.ModuleList(
            nn.Linear(WIDTH, 2 * GROUPS * HEAD, bias=False) for _ in range(LAYERS)
        )
        self.wo = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.w13 = nn.ModuleList(nn.Linear(WIDTH, 48, bias=False) for _ in range(LAYERS))
        self.w2 = nn.ModuleList(nn.Linear(24, WIDTH, bias=False) for _ in range(LAYERS))
        self.norms = nn.ModuleList(LlamaNorm(WIDTH) for _ in range(2 * LAYERS + 1))
        self.output = nn.Linear(WIDTH, VOCAB, bias=False)

    def attend(self, x: Tensor, layer: int, freqs: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.wq[layer](x).view(batch, length, HEADS, HEAD)
        k, v = self.wkv[layer](x).view(batch, length, 2, GROUPS, HEAD).unbind(2)
        q, k = turned_as_complex(q, freqs), turned_as_complex(k, freqs)
        k, v = repeat_kv(k, HEADS // GROUPS), repeat_kv(v, HEADS // GROUPS)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(HEAD)
        scores = F.softmax(scores.float(), dim=-1).type_as(q)
        y = torch.matmul(scores, v).transpose(1, 2).contiguous().view(batch, length, -1)
        return self.wo[layer](y)

    def forward(self, tokens: Tensor) -> Tensor:
        rates = 1.0 / (10 ** (torch.arange(0, HEAD, 2)[: HEAD // 2].float() / HEAD))
        turns = torch.outer(torch.arange(tokens.shape[1]), rates)
        freqs = torch.polar(torch.ones_like(turns), turns)
        h = self.tok_embeddings(tokens)
        for layer in range(LAYERS):
            h = h + self.attend(self.norms[2 * layer](h), layer, freqs)
            gate, up = self.w13[layer](self.norms[2 * layer + 1](h)).chunk(2, dim=-1)
            h = h + self.w2[layer](F.silu(gate) * up)
        return self.output(self.norms[-1](h)).float()


class GemmaNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (wide * (1.0 + self.weight.float())).type_as(x)


class Gemma(nn.Module):
    """Scaled embedding, sandwich norms, GeGLU, a soft cap over the logits of a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.qkv = nn.ModuleList(
            nn.Linear(WIDTH, (HEADS + 2 * GROUPS) * HEAD, bias=False) for _ in range(LAYERS)
        )
        self.o = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.gate = nn.ModuleList(nn.Linear(WIDTH, 24, bias=False) for _ in range(LAYERS))
        self.up = nn.ModuleList(nn.Linear(WIDTH, 24, bias=False) for _ in range(LAYERS))
        self.down = nn.ModuleList(nn.Linear(24, WIDTH, bias=False) for _ in range(LAYERS))
        self.norms = nn.ModuleList(GemmaNorm(WIDTH) for _ in range(4 * LAYERS + 1))

    def attend(self, x: Tensor, layer: int, cos: Tensor, sin: Tensor) -> Tensor:
        sizes = [HEADS * HEAD, GROUPS * HEAD, GROUPS * HEAD]
        q, k, v = (
            y.unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for y in self.qkv[layer](x).split(sizes, dim=-1)
        )
        q, k = q * cos + half_turn(q) * sin, k * cos + half_turn(k) * sin
        k, v = (y.repeat_interleave(HEADS // GROUPS, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=WIDTH**-0.5)
        return self.o[layer](y.transpose(1, 2).flatten(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        place = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        rates = 10 ** -(torch.arange(0, HEAD, 2, dtype=torch.int64).float() / HEAD)
        turns = (rates[None, :, None] @ place[:, None, :].float()).transpose(1, 2)
        turns = torch.cat((turns, turns), dim=-1)
        x = self.embed(input_ids)
        x = x * torch.tensor(WIDTH**0.5, dtype=x.dtype)
        cos, sin = (t.to(x.dtype).unsqueeze(1) for t in (turns.cos(), turns.sin()))
        for layer in range(LAYERS):
            before, after, wide, narrow = self.norms[4 * layer : 4 * layer + 4]
            x = x + after(self.attend(before(x), layer, cos, sin))
            y = wide(x)
            y = F.gelu(self.gate[layer](y), approximate="tanh") * self.up[layer](y)
            x = x + narrow(self.down[layer](y))
        logits = F.linear(self.norms[-1](x), self.embed.weight)
        return torch.tanh(logits / 30.0) * 30.0
