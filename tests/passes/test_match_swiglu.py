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
    def feed(self, x: Tensor, layer: int) -> Tensor:
        wide = self.up[layer](x)
        return self.down[layer](self.gate(wide, wide + 1))

    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up


class Commuted(Gated):
    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return up * F.silu(gate)


class UsedTwice(Gated):
    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        active = F.silu(gate)
        return active * up + active


class Gelu(Gated):
    def gate(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.gelu(gate) * up


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_every_gate_of_a_llada_matches(layers: int, dtype: torch.dtype) -> None:
    graph, context = ready_for("match_swiglu", *llada(dtype, n_layers=layers))
    result = MatchSwiGLU().run(graph, context)
    assert (result.matched, result.expected) == (layers, layers)
    assert operators(graph)[SWIGLU] == layers
    assert "aten.silu.default" not in operators(graph)


@pytest.mark.parametrize(
    ("kind", "matched"), [(Gated, 2), (Commuted, 2), (UsedTwice, 0), (Gelu, 0)]
)
def test_spellings(kind: type[Toy], matched: int) -> None:
    graph, context = ready_for("match_swiglu", kind(), SPEC)
    result = run_and_verify("match_swiglu", graph, context)
    assert (result.matched, operators(graph)[SWIGLU]) == (matched, matched)
