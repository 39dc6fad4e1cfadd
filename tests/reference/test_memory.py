from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dllmc.models.llada import LLaDA
from dllmc.reference.memory import AttentionMemory
from dllmc.spec import ConfigError

KEYS = {
    "d_model": 32,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 3,
    "mlp_hidden_size": 48,
    "vocab_size": 40,
    "max_sequence_length": 64,
    "mask_token_id": 39,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "include_qkv_bias": True,
}
LENGTH = 14


def random_model() -> LLaDA:
    model = LLaDA.from_config(KEYS)[0].double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


class CachedByHand:
    """A LLaDA that computes the rows it is asked for, from its weights, with a cache per layer."""

    def __init__(self, model: LLaDA) -> None:
        self.config = model.config
        self.weights = {
            name.removeprefix("model.transformer."): value
            for name, value in model.state_dict().items()
        }
        shape = (model.config.n_layers, model.config.kv_heads, LENGTH, model.config.head_dim)
        self.keys = torch.full(shape, math.nan, dtype=torch.float64)
        self.values = torch.full(shape, math.nan, dtype=torch.float64)

    def rows(self, tokens: Tensor, positions: list[int]) -> Tensor:
        weights = self.weights
        x = weights["wte.weight"][tokens[0, positions]]
        for layer in range(self.config.n_layers):
            x = x + self.attention(x, layer, positions)
            y = self.normed(x, f"blocks.{layer}.ff_norm")
            gate = y @ weights[f"blocks.{layer}.ff_proj.weight"].T
            up = y @ weights[f"blocks.{layer}.up_proj.weight"].T
            x = x + (gate * torch.sigmoid(gate) * up) @ weights[f"blocks.{layer}.ff_out.weight"].T
        return self.normed(x, "ln_f") @ weights["ff_out.weight"].T

    def attention(self, x: Tensor, layer: int, positions: list[int]) -> Tensor:
        y = self.normed(x, f"blocks.{layer}.attn_norm")
        q, k, v = (self.heads(y, f"blocks.{layer}.{name}_proj") for name in "qkv")
        self.keys[layer][:, positions] = self.rotated(k, positions)
        self.values[layer][:, positions] = v
        group = self.config.n_heads // self.config.kv_heads
        read = []
        for head, query in enumerate(self.rotated(q, positions)):
            score = query @ self.keys[layer][head // group].T / math.sqrt(self.config.head_dim)
            read.append(score.softmax(-1) @ self.values[layer][head // group])
        return torch.cat(read, dim=-1) @ self.weights[f"blocks.{layer}.attn_out.weight"].T

    def heads(self, y: Tensor, name: str) -> Tensor:
        z = y @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return z.view(len(y), -1, self.config.head_dim).transpose(0, 1)

    def normed(self, x: Tensor, name: str) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        return x / scale * self.weights[f"{name}.weight"]

    def rotated(self, x: Tensor, positions: list[int]) -> Tensor:
        half = self.config.head_dim // 2
        powers = torch.arange(half, dtype=torch.float64) / half
        angles = torch.tensor(positions)[:, None] * self.config.rope_theta**-powers
        pairs = torch.complex(x[..., :half], x[..., half:])
        turned = pairs * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((turned.real, turned.imag), dim=-1)


def test_forward_at_some_positions_is_a_cached_evaluation_of_them() -> None:
    model = random_model()
    memory, cached = AttentionMemory(), CachedByHand(model)
    plain_differs = []
    for positions in (
        range(LENGTH),  # a refresh
        range(4, 8),  # the block: dual cache
        range(4, 8),
        range(4, LENGTH),  # the block and what follows: prefix cache
        (2, 5, 6, 13),  # no window at all
        range(LENGTH),
        range(8, 12),
    ):
        rows = list(positions)
        tokens = torch.randint(0, 39, (1, LENGTH))
        with torch.no_grad():
            emulated = memory.forward(model, tokens, rows)[0, rows]
            plain = model(tokens)[0, rows]
        by_hand = cached.rows(tokens, rows)
        assert torch.allclose(emulated, by_hand, rtol=1e-10, atol=1e-10)
        plain_differs.append((plain - by_hand).abs().max().item() > 1e-3)
    assert plain_differs == [False, True, True, True, True, False, True]


def test_what_was_not_evaluated_has_no_influence() -> None:
    model = random_model()
    tokens = torch.randint(0, 39, (1, LENGTH))
    elsewhere = tokens.clone()
    elsewhere[0, [0, 1, 12]] = (elsewhere[0, [0, 1, 12]] + 1) % 39
    rows = list(range(4, 10))
    outputs = []
    for seen in (tokens, elsewhere):
        memory = AttentionMemory()
        memory.forward(model, tokens, range(LENGTH))
        outputs.append(memory.forward(model, seen, rows)[0, rows])
    assert torch.equal(*outputs)


def test_attention_arguments_by_name_and_by_place_are_the_same() -> None:
    class ByName(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(
                key=x, value=x, query=x, scale=0.5, attn_mask=None
            )

    class ByPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, None, 0.0, False, scale=0.5)

    first, second = torch.randn(2, 1, LENGTH, 4, dtype=torch.float64)
    outputs = []
    for module in (ByName(), ByPlace()):
        memory = AttentionMemory()
        memory.forward(module, first, range(LENGTH))
        outputs.append(memory.forward(module, second, range(3)))
    assert torch.equal(*outputs)


def test_attention_that_cannot_be_followed_is_refused() -> None:
    class Handwritten(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(-1, -2)).softmax(-1) @ x

    with pytest.raises(ConfigError, match=r"0 times.*use `cache.kind`='none'"):
        AttentionMemory().forward(Handwritten(), torch.randn(1, LENGTH, 4), range(LENGTH))


def test_a_forward_that_skips_attention_is_refused() -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = 2

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.layers):
                x = nn.functional.scaled_dot_product_attention(x, x, x)
            return x

    module, memory, x = Skipping(), AttentionMemory(), torch.randn(1, LENGTH, 4)
    memory.forward(module, x, range(LENGTH))
    module.layers = 1
    with pytest.raises(ConfigError, match="1 times in a forward where 2 were expected"):
        memory.forward(module, x, range(3))
