from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy, llada

from dllmc.passes.match_swiglu import MatchSwiGLU

if TYPE_CHECKING:
    from torch import Tensor

SWIGLU = "dllmc.swiglu.default"


class Gated(Toy):
    layers = 1

    def feed(self, x: Tensor, layer: int) -> Tensor:
        gate = self.up[layer](x)
        up, twice = gate + 1, F.silu(gate - 1)
        matching = F.silu(gate) * up + up * F.silu(gate + 2)
        other = twice * up + twice + F.gelu(gate) * up
        return self.down[layer](matching + other)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_every_gate_of_a_llada_matches(layers: int, dtype: torch.dtype) -> None:
    graph, context = ready_for("match_swiglu", *llada(dtype, n_layers=layers))
    result = MatchSwiGLU().run(graph, context)
    assert (result.matched, result.expected) == (layers, layers)
    assert operators(graph)[SWIGLU] == layers
    assert "aten.silu.default" not in operators(graph)


def test_only_an_activation_that_nothing_else_reads_matches() -> None:
    graph, context = ready_for("match_swiglu", Gated(), SPEC)
    assert run_and_verify("match_swiglu", graph, context).matched == 2
    assert operators(graph)[SWIGLU] == 2
    assert operators(graph)["aten.silu.default"] == 1
