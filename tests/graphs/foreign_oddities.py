"""Denoisers whose code merges rows, puts positions first, or leaves attention to torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from graphs.foreign import HEAD, HEADS, LAYERS, LONGEST, VOCAB, WIDTH
from torch import Tensor, nn


class Conv1D(nn.Module):
    """A linear layer whose weight stands the other way round, over merged rows."""

    def __init__(self, out: int, width: int) -> None:
        super().__init__()
        self.out = out
        self.weight = nn.Parameter(0.3 * torch.randn(width, out))
        self.bias = nn.Parameter(0.1 * torch.randn(out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view((*x.size()[:-1], self.out))


class GPT2Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = Conv1D(3 * WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)
        self.c_fc, self.c_down = Conv1D(32, WIDTH), Conv1D(WIDTH, 32)

    def attend(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            y.view(batch, length, HEADS, HEAD).transpose(1, 2).reshape(-1, length, HEAD)
            for y in self.c_attn(x).split(WIDTH, dim=2)
        )
        scores = torch.baddbmm(
            torch.empty(batch * HEADS, length, length, dtype=q.dtype),
            q, k.transpose(-1, -2), beta=0, alpha=1 / math.sqrt(HEAD),
        )  # fmt: skip
        mixed = torch.bmm(scores.softmax(dim=-1), v).view(batch, HEADS, length, HEAD)
        return self.c_proj(mixed.permute(0, 2, 1, 3).contiguous().view(batch, length, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.ln_1(x))
        y = self.c_fc(self.ln_2(x))
        y = 0.5 * y * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y.pow(3))))
        return x + self.c_down(y)


class GPT2(nn.Module):
    """Merged rows in each linear layer, merged batch and heads in attention, GELU by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.h = nn.ModuleList(GPT2Layer() for _ in range(LAYERS))
        self.ln_f = nn.LayerNorm(WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[-1]
        input_ids = input_ids.view(-1, length)
        position_ids = torch.arange(0, length, dtype=torch.long).unsqueeze(0)
        x = self.wte(input_ids) + self.wpe(position_ids)
        for block in self.h:
            x = block(x)
        return F.linear(self.ln_f(x), self.wte.weight)


class Encoder(nn.Module):
    """torch's own encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.encoder(self.embed(tokens) + self.places(places)))


class Module(nn.Module):
    """torch's attention module, asked for its weights, which nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(LAYERS)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places.weight[: tokens.shape[1]]
        for norm, attention in zip(self.norms, self.attention, strict=True):
            y = norm(x)
            x = x + attention(y, y, y, need_weights=norm is self.norms[0])[0]
        return self.head(x)


class Cosine(nn.Module):
    """Attention by the angle between queries and keys, norms by hand, ReGLU, einsum throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(VOCAB, WIDTH))
        self.places = nn.Parameter(torch.randn(1, LONGEST, WIDTH))
        self.qkv = nn.ParameterList(
            0.3 * torch.randn(WIDTH, 3, HEADS, HEAD) for _ in range(LAYERS)
        )
        self.out = nn.ParameterList(0.3 * torch.randn(HEADS, HEAD, WIDTH) for _ in range(LAYERS))
        self.up = nn.ParameterList(0.3 * torch.randn(WIDTH, 2, 24) for _ in range(LAYERS))
        self.down = nn.ParameterList(0.3 * torch.randn(24, WIDTH) for _ in range(LAYERS))
        self.gain = nn.ParameterList(torch.rand(2, WIDTH) + 0.5 for _ in range(LAYERS))
        self.heat = nn.Parameter(torch.rand(HEADS, 1, 1) + 2)

    def normed(self, x: Tensor, gain: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-5) * gain

    def attend(self, x: Tensor, i: int) -> Tensor:
        q, k, v = torch.einsum("btd,dche->cbhte", x, self.qkv[i]).unbind(0)
        q, k = F.normalize(q, dim=-1), k / k.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        weights = torch.softmax((q @ k.mT) * self.heat.exp(), -1)
        return torch.einsum("bhte,hed->btd", weights @ v, self.out[i])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed[tokens] + self.places[:, : tokens.shape[1]]
        for i in range(LAYERS):
            x = x + self.attend(self.normed(x, self.gain[i][0]), i)
            y = torch.einsum("btd,dcf->cbtf", self.normed(x, self.gain[i][1]), self.up[i])
            x = x + torch.einsum("btf,fd->btd", F.relu(y[0]) * y[1], self.down[i])
        return torch.einsum("btd,vd->btv", x, self.embed)
