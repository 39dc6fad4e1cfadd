"""A small transformer whose parts can be replaced one by one, and a tiny LLaDA."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllmc.models import _random
from dllmc.models.llada import LLaDA
from dllmc.models.shapes import SHAPES
from dllmc.spec import DenoiserSpec

VOCAB, MASK, WIDTH, HEADS, LONGEST = 13, 12, 16, 4, 32
SPEC = DenoiserSpec(mask_id=MASK, vocab_size=VOCAB, max_length=LONGEST, eos_ids=(0,))


class Toy(nn.Module):
    """Learned positions, LayerNorm, GELU; float64."""

    layers = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Embedding(LONGEST, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2 * self.layers + 1))
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(self.layers))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(self.layers))
        self.up = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(self.layers))
        self.down = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(self.layers))
        self.head = nn.Linear(WIDTH, VOCAB)
        self.eval().double().requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.extra(self.place(self.embed(tokens)), tokens)
        for layer in range(self.layers):
            x = x + self.out[layer](self.attend(self.norms[2 * layer](x), layer))
            x = x + self.feed(self.norms[2 * layer + 1](x), layer)
        return self.finish(self.norms[-1](x), tokens)

    def place(self, x: Tensor) -> Tensor:
        return x + self.places(torch.arange(x.shape[1], device=x.device))

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        q, k = self.turn(q), self.turn(k)
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(x.shape)

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = qkv.shape
        return tuple(
            part.view(batch, length, HEADS, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
        )

    def turn(self, x: Tensor) -> Tensor:
        return x

    def feed(self, x: Tensor, layer: int) -> Tensor:
        return self.down[layer](F.gelu(self.up[layer](x)))

    def finish(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.head(x)


def angles(length: Any, width: int) -> Tensor:
    """`[length, width]`, the two halves alike."""
    rates = 10.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    half = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.cat((half, half), dim=-1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def sinusoids(length: Any) -> Tensor:
    """`[length, WIDTH]`."""
    rates = torch.exp(torch.arange(0, WIDTH, 2, dtype=torch.float64) * (-math.log(50.0) / WIDTH))
    turns = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack((turns.sin(), turns.cos()), dim=-1).flatten(1)


def llada(
    dtype: torch.dtype = torch.float64, shape: str = "llada-tiny", **changes: Any
) -> tuple[LLaDA, DenoiserSpec]:
    """A LLaDA of two layers with random weights; the same one for the same arguments."""
    keys = SHAPES[shape] | changes
    return _llada(dtype, tuple(sorted((k, v) for k, v in keys.items() if k != "architectures")))


@functools.cache
def _llada(dtype: torch.dtype, keys: tuple[tuple[str, Any], ...]) -> tuple[LLaDA, DenoiserSpec]:
    with torch.device("meta"):
        module, spec = LLaDA.from_config(dict(keys))
    _random.fill(module, spec, 0, dtype, "cpu")
    return module.eval(), spec
