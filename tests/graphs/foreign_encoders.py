"""More denoisers as other people write them: BERT and its relatives."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from graphs.foreign import GROUPS, HEAD, HEADS, LAYERS, LONGEST, VOCAB, WIDTH, half_turn
from torch import Tensor, nn


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.dense = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.intermediate, self.output = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH, 1e-12), nn.LayerNorm(WIDTH, 1e-12)
        self.dropout = nn.Dropout(0.1)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.size()[:-1], HEADS, HEAD).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2))
        scores = scores / math.sqrt(HEAD) + mask
        probabilities = self.dropout(nn.Softmax(dim=-1)(scores))
        y = torch.matmul(probabilities, v).permute(0, 2, 1, 3).contiguous()
        y = self.dense(y.view(*y.size()[:-2], WIDTH))
        x = self.norm_1(self.dropout(y) + x)
        return self.norm_2(self.dropout(self.output(F.gelu(self.intermediate(x)))) + x)


class Bert(nn.Module):
    """Learned positions and types, norms after, an additive mask that hides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB, WIDTH, padding_idx=0)
        self.positions = nn.Embedding(LONGEST, WIDTH)
        self.types = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer() for _ in range(LAYERS))
        self.transform, self.transform_norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.bias = nn.Parameter(torch.randn(VOCAB))
        self.register_buffer("position_ids", torch.arange(LONGEST).expand((1, -1)))

    def forward(self, input_ids: Tensor) -> Tensor:
        ids = self.position_ids[:, : input_ids.size(1)]
        x = self.words(input_ids) + self.positions(ids) + self.types(torch.zeros_like(ids))
        x = self.norm(x)
        mask = torch.ones(input_ids.shape)[:, None, None, :].to(x.dtype)
        mask = (1.0 - mask) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, mask)
        x = self.transform_norm(F.gelu(self.transform(x)))
        return x @ self.words.weight.t() + self.bias


class MPT(nn.Module):
    """No positions, clipped QKV, norms without bias, a scaled tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCAB, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2 * LAYERS + 1))
        self.wqkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH, bias=False) for _ in range(LAYERS))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.up = nn.ModuleList(nn.Linear(WIDTH, 32, bias=False) for _ in range(LAYERS))
        self.down = nn.ModuleList(nn.Linear(32, WIDTH, bias=False) for _ in range(LAYERS))

    def attend(self, x: Tensor, layer: int) -> Tensor:
        qkv = self.wqkv[layer](x)
        qkv.clamp_(min=-8, max=8)
        q, k, v = (y.reshape(*y.shape[:2], HEADS, HEAD) for y in qkv.chunk(3, dim=2))
        weights = torch.einsum("bqhd,bkhd->bhqk", q * HEAD**-0.5, k).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v)
        return self.out[layer](mixed.reshape(*x.shape[:2], WIDTH))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.wte(input_ids)
        for i in range(LAYERS):
            x = x + self.attend(self.norms[2 * i](x), i)
            x = x + self.down[i](F.gelu(self.up[i](self.norms[2 * i + 1](x)), approximate="none"))
        return F.linear(self.norms[-1](x), self.wte.weight) * 0.5


class T5Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH) + 0.1 * torch.randn(WIDTH))

    def forward(self, hidden: Tensor) -> Tensor:
        variance = hidden.to(torch.float32).pow(2).mean(-1, keepdim=True)
        hidden = hidden * torch.rsqrt(variance + 1e-6)
        if self.weight.dtype in (torch.float16, torch.bfloat16):
            hidden = hidden.to(self.weight.dtype)
        return self.weight * hidden


class T5(nn.Module):
    """Gated GELU, unscaled attention, sinusoids added once, a mask that fills nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(VOCAB, WIDTH)
        self.norms = nn.ModuleList(T5Norm() for _ in range(2 * LAYERS + 1))
        self.qkvo = nn.ParameterList(
            0.2 * torch.randn(4, WIDTH, HEADS, HEAD) for _ in range(LAYERS)
        )
        self.wi = nn.ModuleList(nn.Linear(WIDTH, 48, bias=False) for _ in range(LAYERS))
        self.wo = nn.ModuleList(nn.Linear(24, WIDTH, bias=False) for _ in range(LAYERS))
        rates = torch.exp(torch.arange(0, WIDTH, 2) * (-math.log(50.0) / WIDTH))
        turns = torch.arange(LONGEST).unsqueeze(1) * rates
        table = torch.zeros(LONGEST, WIDTH)
        table[:, 0::2], table[:, 1::2] = turns.sin(), turns.cos()
        self.register_buffer("pe", table.unsqueeze(0))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.shared(tokens) + self.pe[:, : tokens.size(1)]
        for i in range(LAYERS):
            y = self.norms[2 * i](x)
            wq, wk, wv, wo = self.qkvo[i].unbind(0)
            q = torch.einsum("btd,dnh->bnth", y, wq)
            k = torch.einsum("btd,dnh->bnth", y, wk)
            v = torch.einsum("btd,dnh->bnth", y, wv)
            scores = torch.einsum("bnqd,bnkd->bnqk", q, k)
            weights = F.softmax(scores.float(), dim=-1).type_as(scores)
            mixed = torch.einsum("bnqk,bnkd->bnqd", weights, v)
            x = x + torch.einsum("bnth,dnh->btd", mixed, wo)
            up, gate = self.wi[i](self.norms[2 * i + 1](x)).chunk(2, dim=-1)
            x = x + self.wo[i](F.gelu(gate) * up)
        return F.linear(self.norms[-1](x) * WIDTH**-0.5, self.shared.weight)


class Qwen(nn.Module):
    """QK-norm per head, K/V heads repeated by expand and reshape, rotation after."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.q = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS))
        self.k = nn.ModuleList(nn.Linear(WIDTH, GROUPS * HEAD) for _ in range(LAYERS))
        self.v = nn.ModuleList(nn.Linear(WIDTH, GROUPS * HEAD) for _ in range(LAYERS))
        self.o = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH, 1e-6) for _ in range(2 * LAYERS + 1))
        self.q_norms = nn.ModuleList(nn.RMSNorm(HEAD, 1e-6) for _ in range(LAYERS))
        self.k_norms = nn.ModuleList(nn.RMSNorm(HEAD, 1e-6) for _ in range(LAYERS))
        self.gate = nn.ModuleList(nn.Linear(WIDTH, 24, bias=False) for _ in range(LAYERS))
        self.up = nn.ModuleList(nn.Linear(WIDTH, 24, bias=False) for _ in range(LAYERS))
        self.down = nn.ModuleList(nn.Linear(24, WIDTH, bias=False) for _ in range(LAYERS))
        self.lm_head = nn.Linear(WIDTH, VOCAB + 3, bias=False)

    def repeated(self, x: Tensor) -> Tensor:
        batch, groups, length, width = x.shape
        x = x[:, :, None, :, :].expand(batch, groups, HEADS // groups, length, width)
        return x.reshape(batch, HEADS, length, width)

    def attend(self, x: Tensor, i: int, cos: Tensor, sin: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, HEAD)
        q = self.q_norms[i](self.q[i](x).view(shape)).transpose(1, 2)
        k = self.k_norms[i](self.k[i](x).view(shape)).transpose(1, 2)
        v = self.v[i](x).view(shape).transpose(1, 2)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        q, k = q * cos + half_turn(q) * sin, k * cos + half_turn(k) * sin
        y = F.scaled_dot_product_attention(q, self.repeated(k), self.repeated(v))
        return self.o[i](y.transpose(1, 2).contiguous().reshape(*x.shape[:-1], -1))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        ids = torch.arange(x.shape[1], device=x.device)[None].expand(x.shape[0], -1)
        rates = 10.0 ** (-torch.arange(0, HEAD, 2).float() / HEAD)
        turns = ids[..., None].float() * rates
        turns = torch.cat((turns, turns), dim=-1)
        cos, sin = turns.cos().to(x.dtype), turns.sin().to(x.dtype)
        for i in range(LAYERS):
            x = x + self.attend(self.norms[2 * i](x), i, cos, sin)
            y = self.norms[2 * i + 1](x)
            x = x + self.down[i](F.silu(self.gate[i](y)) * self.up[i](y))
        return self.lm_head(self.norms[-1](x))[..., :VOCAB]
