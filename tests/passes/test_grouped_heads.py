from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import operators, ready_for, run_and_verify
from graphs.toys import HEADS, SPEC, WIDTH, Toy

from dllmc.kernels import canonical
from dllmc.passes._graph import argument, calls, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Spelling = Callable[[Tensor], Tensor]

NAME, GROUPS, TIMES, HEAD = "match_attention", 2, 2, WIDTH // HEADS


class Grouped(Toy):
    """K and V of two heads, repeated by `spellings` to four."""

    layers = 1

    def __init__(self, key: Spelling, value: Spelling) -> None:
        super().__init__()
        self.spellings = (key, value)

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        k, v = (spell(y[:, :GROUPS]) for spell, y in zip(self.spellings, (k, v), strict=True))
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(x.shape)


def by_expand(x: Tensor) -> Tensor:
    batch, groups, length, width = x.shape
    wide = x[:, :, None, :, :].expand(batch, groups, TIMES, length, width)
    return wide.reshape(batch, groups * TIMES, length, width)


def by_flatten(x: Tensor) -> Tensor:
    return x.unsqueeze(2).expand(-1, -1, TIMES, -1, -1).flatten(1, 2)


def by_repeat(x: Tensor) -> Tensor:
    return x.unsqueeze(-3).repeat(1, 1, TIMES, 1, 1).flatten(1, 2)


def by_interleaving(x: Tensor) -> Tensor:
    return torch.repeat_interleave(x, TIMES, dim=1)


def before_the_heads_move(x: Tensor) -> Tensor:
    batch, groups, length, width = x.shape
    x = x.transpose(1, 2)[:, :, :, None, :].expand(batch, length, groups, TIMES, width)
    return x.reshape(batch, length, groups * TIMES, width).transpose(1, 2)


def permuted(x: Tensor) -> Tensor:
    return x.permute(0, 2, 1, 3).repeat_interleave(TIMES, dim=2).permute(0, 2, 1, 3)


def by_view(x: Tensor) -> Tensor:
    batch, groups, length, width = x.shape
    wide = x.reshape(batch, groups, 1, length, width).expand(-1, -1, TIMES, -1, -1)
    return wide.reshape(batch, HEADS, length, width)


SPELLINGS = [
    by_expand, by_flatten, by_repeat, by_interleaving, before_the_heads_move, permuted, by_view,
]  # fmt: skip


def heads_of(*spellings: Spelling) -> list[int]:
    """Heads of k and v that attention reads once `spellings` are matched."""
    graph, context = ready_for(NAME, Grouped(*spellings), SPEC)
    assert run_and_verify(NAME, graph, context).matched == 1
    (call,) = calls(graph, canonical("attention"))
    assert "aten.expand.default" not in operators(graph) or by_tiling in spellings
    return [value_of(argument(call, name)).shape[1] for name in ("k", "v")]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: s.__name__)
def test_repeated_heads_are_read_once(spelling: Spelling) -> None:
    assert heads_of(spelling, spelling) == [GROUPS, GROUPS]


def test_keys_and_values_may_be_repeated_by_different_code() -> None:
    assert heads_of(by_interleaving, by_expand) == [GROUPS, GROUPS]


def by_tiling(x: Tensor) -> Tensor:
    """Heads 0, 1, 0, 1: other queries' keys."""
    batch, groups, length, width = x.shape
    return x[:, None].expand(batch, TIMES, groups, length, width).reshape(batch, 4, length, width)


def by_repeating_all(x: Tensor) -> Tensor:
    return x.repeat(1, TIMES, 1, 1)


@pytest.mark.parametrize("spelling", [by_tiling, by_repeating_all], ids=lambda s: s.__name__)
def test_heads_in_another_order_stay_repeated(spelling: Spelling) -> None:
    assert heads_of(spelling, spelling) == [HEADS, HEADS]


def test_heads_of_keys_alone_stay_repeated() -> None:
    assert heads_of(by_interleaving, by_repeating_all) == [HEADS, HEADS]
