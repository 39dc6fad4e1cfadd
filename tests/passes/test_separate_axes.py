from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sympy
import torch
import torch.nn.functional as F
from graphs.passing import captured, operators, ready_for, run_and_verify
from graphs.toys import HEADS, SPEC, WIDTH, Toy
from torch import Tensor, nn

from dllmc.compiler.pipeline import run_passes
from dllmc.passes._axis_factors import common_factors
from dllmc.passes._graph import value_of
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from torch.fx import GraphModule

NAME = "separate_axes"
B, T = sympy.symbols("b t", positive=True, integer=True)


class MergedRows(Toy):
    layers = 1

    def feed(self, x: Tensor, layer: int) -> Tensor:
        rows = F.gelu(self.up[layer](x.reshape(-1, WIDTH)))
        return self.down[layer](rows).view(x.shape)


class MergedResidual(Toy):
    layers = 1

    def feed(self, x: Tensor, layer: int) -> Tensor:
        rows = x.view(-1, WIDTH)
        rows = rows + torch.addmm(
            self.down[layer].bias,
            torch.mm(rows, self.up[layer].weight.t()),
            self.down[layer].weight.t(),
        )
        return F.layer_norm(rows, (WIDTH,)).view(x.shape)


class MergedHeads(Toy):
    """Norms of each head over rows of positions and heads, as in LLaDA-MoE."""

    layers = 1

    def turn(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        rows = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6)
        return rows.reshape(x.shape)


class MergedGates(Toy):
    layers = 1

    def feed(self, x: Tensor, layer: int) -> Tensor:
        rows = self.up[layer](x.view(-1, WIDTH))
        gate, up = rows.chunk(2, dim=1)
        best, _ = torch.topk(gate.softmax(-1), 3, dim=-1)
        return (best.sum(-1, keepdim=True) * up).view(x.shape)


class PositionsFirst(Toy):
    """As in torch's `multi_head_attention_forward`."""

    layers = 1

    def attend(self, x: Tensor, layer: int) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.transpose(0, 1).reshape(length, batch * HEADS, -1).transpose(0, 1)
            for part in self.qkv[layer](x).chunk(3, dim=-1)
        )
        q, k, v = (part.view(batch, HEADS, length, -1) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3)
        y = self.out[layer](y.reshape(length * batch, WIDTH))
        return y.view(length, batch, WIDTH).transpose(0, 1)


class FlatTokens(Toy):
    """Tokens are looked up as one long row."""

    layers = 1

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        scale = torch.tanh(tokens.reshape(-1).double()).view(tokens.shape)
        return x * scale[..., None]


class MergedCumsum(Toy):
    layers = 1

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.reshape(-1, WIDTH).cumsum(0).view(x.shape)


class MergedSoftmax(Toy):
    layers = 1

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.reshape(-1, WIDTH).softmax(0).view(x.shape)


class MergedMean(Toy):
    layers = 1

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        rows = x.reshape(-1, WIDTH)
        return (rows - rows.mean(0, keepdim=True)).view(x.shape)


class Exchanged(Toy):
    """Batch and positions merged one way and split the other: rows of others."""

    layers = 1

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        batch, length, _ = x.shape
        return x.reshape(batch * length, WIDTH).view(length, batch, WIDTH).transpose(0, 1)


def merged(graph: GraphModule) -> list[str]:
    """Nodes with an axis that is batch and something else."""
    found = []
    for node in graph.graph.nodes:
        value = value_of(node)
        if isinstance(value, Tensor):
            sizes = [size.node.expr for size in value.shape if isinstance(size, torch.SymInt)]
            found += [node.name for size in sizes if not size.is_Symbol]
    return found


@pytest.mark.parametrize(
    "kind",
    [MergedRows, MergedResidual, MergedHeads, MergedGates, PositionsFirst, FlatTokens],
    ids=lambda k: k.__name__,
)
def test_no_axis_is_merged_after(kind: type[Toy]) -> None:
    graph, context = ready_for(NAME, kind(), SPEC)
    assert merged(graph)
    assert run_and_verify(NAME, graph, context).matched >= 1
    assert not merged(graph)


@pytest.mark.parametrize(
    "kind", [MergedRows, MergedResidual, MergedHeads, MergedGates, PositionsFirst]
)
def test_then_the_model_is_proved(kind: type[Toy]) -> None:
    graph, context = captured(kind(), SPEC)
    results = run_passes(graph, context, {}, verify=True)[1]
    assert {r.name: r.matched for r in results}["insert_cache"] == 1


@pytest.mark.parametrize("kind", [MergedCumsum, MergedSoftmax, MergedMean, Exchanged])
def test_what_mixes_merged_rows_keeps_them_and_is_refused(kind: type[Toy]) -> None:
    graph, context = ready_for(NAME, kind(), SPEC)
    run_and_verify(NAME, graph, context)
    graph, context = captured(kind(), SPEC)
    with pytest.raises(NotPositionWiseError):
        run_passes(graph, context, {})


def test_a_model_without_merged_axes_is_left_alone() -> None:
    graph, context = ready_for(NAME, Toy(), SPEC)
    before = operators(graph)
    assert run_and_verify(NAME, graph, context).matched == 0
    assert operators(graph) == before


def test_weights_from_tokens_are_no_merged_rows() -> None:
    class Outer(Toy):
        layers = 1

        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            rows = x.reshape(-1, WIDTH)
            return nn.functional.linear(rows, rows[:WIDTH].abs()).view(x.shape)

    graph, context = captured(Outer(), SPEC)
    with pytest.raises(NotPositionWiseError):
        run_passes(graph, context, {})


@pytest.mark.parametrize(
    ("before", "after", "groups"),
    [
        ([B, T, 16], [B * T, 16], [[B, T], [16]]),
        ([T, B, 16], [T, 4 * B, 4], [[T], [B, 4], [4]]),
        ([B, 4, T, 4], [B, T, 16], None),
        ([B * T, 16], [B, T, 4, 4], [[B], [T], [4], [4]]),
        ([B, T, 3, 4], [B, T, 12], [[B], [T], [12]]),
        ([B, T], [T, B], None),
        ([B, 1, T], [B, T], [[B], [T]]),
        ([B, T], [B, 1, T], [[B], [1], [T]]),
        ([B, 6], [B, 4], None),
        ([4 * B, T], [B, 4, T], [[B], [4], [T]]),
    ],
)
def test_factors_stand_in_the_same_order_in_both(
    before: list[sympy.Expr], after: list[sympy.Expr], groups: list[list[sympy.Expr]] | None
) -> None:
    assert common_factors(before, after, (B, T)) == groups
