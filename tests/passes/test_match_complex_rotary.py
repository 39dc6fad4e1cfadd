from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from graphs.passing import operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy

if TYPE_CHECKING:
    from torch import Tensor

NAME = "match_complex_rotary"


class Turning(Toy):
    """Adds x turned by complex numbers."""

    layers = 1

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        rates = 10.0 ** -torch.arange(pairs.shape[-1], dtype=torch.float64)
        turns = torch.outer(torch.arange(x.shape[1]), rates)
        return x + torch.view_as_real(self.turned(pairs, turns)).flatten(2)

    def turned(self, pairs: Tensor, turns: Tensor) -> Tensor:
        return pairs * torch.polar(torch.ones_like(turns), turns)


class TableFirst(Turning):
    def turned(self, pairs: Tensor, turns: Tensor) -> Tensor:
        return torch.exp(1j * turns)[None] * pairs


class Conjugated(Turning):
    def turned(self, pairs: Tensor, turns: Tensor) -> Tensor:
        return pairs.conj() * torch.polar(torch.ones_like(turns), turns)


@pytest.mark.parametrize("kind", [Turning, TableFirst])
def test_a_complex_product_becomes_real(kind: type[Turning]) -> None:
    graph, context = ready_for(NAME, kind(), SPEC)
    assert run_and_verify(NAME, graph, context).matched == 1
    assert "aten.view_as_complex.default" not in operators(graph)
    assert operators(graph)["aten.stack.default"] == 1


def test_what_is_another_function_does_not_match() -> None:
    graph, context = ready_for(NAME, Conjugated(), SPEC)
    assert run_and_verify(NAME, graph, context).matched == 0
