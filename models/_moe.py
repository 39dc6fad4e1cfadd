"""Mixtures of experts (arXiv 2409.02060): routed feed-forward layers, and Qwen bodies with them.

Published checkpoints hold a tensor per expert. Here the experts of a layer are stacked, so that
one operator evaluates them; `stored_experts` says which tensors a stack is made of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn

from dllmc.kernels import canonical
from dllmc.models._keys import Size
from dllmc.models._qwen import QwenDenoiser
from dllmc.models._qwen_config import QwenConfig

if TYPE_CHECKING:
    from dllmc.models._stacked import Stacks


class RoutedConfig(QwenConfig):
    """A Qwen3 body some of whose layers are routed by a softmax."""

    qk_norm = True

    num_experts: Size
    num_experts_per_tok: Size

    @property
    def renormalise(self) -> bool:
        """Whether the weights of the chosen experts are scaled to sum to one."""
        return False

    @property
    def expert_width(self) -> int:
        """Hidden width of an expert."""
        raise NotImplementedError

    def routes(self, layer: int) -> bool:
        """Whether a layer has experts."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _enough_experts(self) -> Self:
        if self.num_experts_per_tok > self.num_experts:
            raise ValueError(
                f"`num_experts_per_tok`={self.num_experts_per_tok} must not be over "
                f"`num_experts`={self.num_experts}"
            )
        return self


class GatedMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Experts(nn.Module):
    """Each row through the experts `ids` `[..., k]`, summed with `weights` `[..., k]`."""

    def __init__(self, count: int, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(count, 2 * hidden, width))
        self.down = nn.Parameter(torch.empty(count, width, hidden))

    def forward(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = canonical("experts")(x, ids, weights, self.gate_up, self.down)
        return out


def in_single(x: Tensor) -> Tensor:
    """In float32 or better: routing that is rounded to less takes other experts."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class RoutedMLP(nn.Module):
    """The k experts with the highest softmax, which are their weights."""

    def __init__(self, config: RoutedConfig) -> None:
        super().__init__()
        self.chosen, self.renormalise = config.num_experts_per_tok, config.renormalise
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Experts(config.num_experts, config.hidden_size, config.expert_width)

    def forward(self, x: Tensor) -> Tensor:
        weights, ids = in_single(self.gate(x)).softmax(-1).topk(self.chosen, dim=-1)
        if self.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        out: Tensor = self.experts(x, ids, weights.to(x.dtype))
        return out


def stored_experts(denoiser: nn.Module) -> Stacks:
    """The tensors of a published checkpoint that each stack of experts is made of."""
    stacks: dict[str, tuple[tuple[str, ...], ...]] = {}
    for path, module in denoiser.named_modules():
        if isinstance(module, Experts):
            each = [f"{path}.{expert}" for expert in range(len(module.gate_up))]
            stacks[f"{path}.gate_up"] = tuple(
                (f"{one}.gate_proj.weight", f"{one}.up_proj.weight") for one in each
            )
            stacks[f"{path}.down"] = tuple((f"{one}.down_proj.weight",) for one in each)
    return stacks


class RoutedDenoiser(QwenDenoiser):
    """As `QwenDenoiser`, with experts in the layers that its config routes."""

    def __init__(self, config: RoutedConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.model.layers):
            if config.routes(number):
                layer.mlp = RoutedMLP(config)
        self.dense_layers = sum(not config.routes(n) for n in range(config.num_hidden_layers))

    @property
    def stored_as(self) -> Stacks:
        """The stored tensors that each stacked parameter is made of."""
        return stored_experts(self)

    def expected_matches(self) -> dict[str, int]:
        """How often each compiler pass must match, so that none stops matching unnoticed."""
        layers, dense = self.config.num_hidden_layers, self.dense_layers
        merged = {"match_swiglu": dense, "merge_projections": layers + dense}
        return super().expected_matches() | merged
