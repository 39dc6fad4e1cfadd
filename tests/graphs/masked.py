"""Toys whose attention has a mask or a bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from graphs.toys import HEADS, LONGEST, Toy
from torch import Tensor, nn

PAD = 3


class WithMask(Toy):
    """Attends under `mask(tokens)`."""

    def forward(self, tokens: Tensor) -> Tensor:
        self.made = self.mask(tokens)
        return super().forward(tokens)

    def mask(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def attend(self, x: Tensor, layer: int) -> Tensor:
        y = F.scaled_dot_product_attention(*self.split(self.qkv[layer](x)), attn_mask=self.made)
        return y.transpose(1, 2).reshape(x.shape)


def distance(tokens: Tensor) -> Tensor:
    order = torch.arange(tokens.shape[1], device=tokens.device)
    return order[:, None] - order


class AllSeen(WithMask):
    """As modelling files make one of an attention mask that nobody gave."""

    def mask(self, tokens: Tensor) -> Tensor:
        seen = torch.ones_like(tokens)[:, None, None, :].to(torch.float64)
        return (1.0 - seen) * torch.finfo(torch.float64).min


class Blocks(WithMask):
    length = 4

    def mask(self, tokens: Tensor) -> Tensor:
        block = torch.arange(tokens.shape[1], device=tokens.device) // self.length
        return block[:, None] >= block


class AdditiveBlocks(Blocks):
    def mask(self, tokens: Tensor) -> Tensor:
        hidden = ~super().mask(tokens)[None, None]
        return torch.zeros(1, dtype=torch.float64).masked_fill(hidden, -torch.inf)


class Alibi(WithMask):
    def mask(self, tokens: Tensor) -> Tensor:
        slopes = 2.0 ** -torch.arange(1, HEADS + 1, dtype=torch.float64)
        return -distance(tokens).abs() * slopes[:, None, None]


class Window(WithMask):
    def mask(self, tokens: Tensor) -> Tensor:
        return distance(tokens).abs() <= 4


class LearnedBias(WithMask):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Parameter(
            torch.randn(1, HEADS, LONGEST, LONGEST).double(), requires_grad=False
        )

    def mask(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        return self.table[:, :, :length, :length]


class HidesPadding(WithMask):
    def mask(self, tokens: Tensor) -> Tensor:
        return (tokens != PAD)[:, None, None, :]


class HidesPaddingByAdding(WithMask):
    def mask(self, tokens: Tensor) -> Tensor:
        batch, length = tokens.shape
        seen = (tokens != PAD)[:, None, None, :].expand(batch, 1, length, length)
        return (1.0 - seen.to(torch.float64)) * torch.finfo(torch.float64).min


class HidesPaddingFromPadding(WithMask):
    """As Dream's: queries and keys, joined here with what is near."""

    def mask(self, tokens: Tensor) -> Tensor:
        seen = tokens != PAD
        both = torch.logical_and(seen.unsqueeze(1).unsqueeze(-2), seen.unsqueeze(1).unsqueeze(-1))
        return both | (distance(tokens) == 0)


class CausalMask(WithMask):
    def mask(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        return torch.full((length, length), -torch.inf, dtype=torch.float64).triu(1)


class ByRunningCount(WithMask):
    """How many tokens came before is no function of one query and one key."""

    def mask(self, tokens: Tensor) -> Tensor:
        return ((tokens == PAD).cumsum(-1) < 2)[:, None, None, :]


class OfBatch(WithMask):
    def mask(self, tokens: Tensor) -> Tensor:
        rows = torch.arange(tokens.shape[0], dtype=torch.float64)
        return rows[:, None, None, None].expand(-1, 1, 1, tokens.shape[1])
