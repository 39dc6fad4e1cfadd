from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from graphs.passing import captured, operators, run_and_verify
from graphs.toys import SPEC, Toy, llada

from dllmc.passes.remove_noops import RemoveNoops

if TYPE_CHECKING:
    from torch import Tensor


class Noisy(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        x = x.to(torch.float64).contiguous().clone().detach()
        x = F.dropout(x, 0.5, training=False)
        return x[:, :, :]


NOOPS = ("aten.to.dtype", "aten.contiguous", "aten.clone", "aten.detach", "aten.dropout")


def test_what_computes_nothing_goes() -> None:
    graph, context = captured(Noisy(), SPEC)
    before = operators(graph)
    result = run_and_verify("remove_noops", graph, context)
    assert result.matched == result.nodes_before - result.nodes_after == 6
    assert any(name.startswith(NOOPS) for name in before)
    assert not any(name.startswith((*NOOPS, "aten._assert")) for name in operators(graph))


def test_a_conversion_that_converts_stays() -> None:
    module, spec = llada(torch.bfloat16)
    graph, context = captured(module, spec)
    RemoveNoops().run(graph, context)
    # Two per norm, two per rotation.
    assert operators(graph)["aten.to.dtype"] == 2 * 5 + 2 * 4


def test_a_slice_that_cuts_stays() -> None:
    class Cut(Toy):
        def feed(self, x: Tensor, layer: int) -> Tensor:
            wide = self.up[layer](x)
            return self.down[layer](torch.cat((wide[..., 8:], wide[..., :8]), dim=-1))

    graph, context = captured(Cut(), SPEC)
    run_and_verify("remove_noops", graph, context)
    assert operators(graph)["aten.slice.Tensor"] == 4
