"""Routing and experts: position-wise as they are built, and refused where they mix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from graphs.passing import captured, operators, ready_for, run_and_verify
from graphs.toys import SPEC, WIDTH, Toy
from torch import Tensor, nn

from dllmc.compiler.pipeline import run_passes
from dllmc.compiler.verify import Probe
from dllmc.kernels import canonical
from dllmc.models import load_model
from dllmc.passes._graph import calls
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

EXPERTS, HIDDEN, GROUPS = 6, 5, 3
OPERATOR = "dllmc.experts.default"
MIXES, ORDERS = "mixes or reorders positions", "puts rows to other positions"
PICKS = "picks rows by where they stand or by what they hold"


class Mixture(Toy):
    """The toy with experts; subclasses route in their own ways."""

    layers = 1

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.gate_up = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, WIDTH) / WIDTH**0.5)
        self.down_all = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) / HIDDEN**0.5)
        self.double().requires_grad_(False)

    def mix(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        out: Tensor = canonical("experts")(x, ids, weights, self.gate_up, self.down_all)
        return out

    def feed(self, x: Tensor, layer: int) -> Tensor:
        ids, weights = self.route(x)
        return self.mix(x, ids, weights)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights, ids = self.router(x).softmax(-1).topk(2, dim=-1)
        return ids, weights


class TwoLayers(Mixture):
    layers = 2


class Gathered(Mixture):
    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.router(x).sigmoid()
        ids = (scores + 0.1).topk(3, dim=-1).indices
        weights = scores.gather(-1, ids)
        return ids, weights / weights.sum(-1, keepdim=True)


class Grouped(Mixture):
    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.router(x).sigmoid()
        groups = scores.unflatten(-1, (GROUPS, -1))
        best = groups.sum(-1).topk(2, dim=-1).indices
        kept = torch.zeros_like(groups[..., 0]).scatter(-1, best, 1.0).bool()
        eligible = groups.masked_fill(~kept.unsqueeze(-1), -torch.inf).flatten(-2)
        ids = eligible.topk(2, dim=-1).indices
        return ids, scores.gather(2, ids)


class Scattered(Mixture):
    """All experts, with weights that are zero but for the chosen ones."""

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.router(x).softmax(-1)
        chosen, ids = scores.topk(2, dim=-1)
        weights = torch.zeros_like(scores).scatter(-1, ids, chosen)
        every = torch.ones_like(scores).cumsum(-1).long() - 1
        return every, weights


@pytest.mark.parametrize("kind", [Mixture, Gathered, Grouped, Scattered])
def test_routing_along_the_experts_is_accepted(kind: type[Mixture]) -> None:
    probe = Probe(SPEC)
    graph, context = captured(kind(), SPEC)
    assert operators(graph)[OPERATOR] == kind.layers
    before = probe.observe(graph)
    graphs, _ = run_passes(graph, context, {})
    for name in ("greedy", "sampled"):
        probe.compare("any", before, probe.observe(graphs[name]))
        assert operators(graphs[name])["dllmc.experts.torch"] == kind.layers


def test_experts_of_the_last_layer_see_the_rows_of_the_head_only() -> None:
    graph, context = ready_for("narrow_head_rows", TwoLayers(), SPEC)
    run_and_verify("narrow_head_rows", graph, context)
    rows: list[int] = []

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: Node) -> object:
            result = super().run_node(n)
            if n.target is canonical("experts"):
                rows.append(result.shape[1])
            return result

    order = torch.arange(9).expand(2, 9)
    Recorder(graph).run(torch.zeros_like(order), order, order[:, :3])
    assert rows == [9, 3]


class ExpertsByPosition(Mixture):
    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        _, weights = super().route(x)
        ids = torch.arange(x.shape[1])[:, None] % torch.tensor([2, 3])
        return ids.expand(x.shape[0], -1, -1), weights


class RouteOfAnotherRow(Mixture):
    def feed(self, x: Tensor, layer: int) -> Tensor:
        ids, weights = self.route(x)
        return self.mix(x, ids.transpose(0, 1), weights.transpose(0, 1)).transpose(0, 1)


class RowsChooseRows(Mixture):
    """Expert choice (arXiv 2202.09368): every expert takes its best rows."""

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.router(x).softmax(-1)
        weights, ids = scores.topk(2, dim=1)
        return super().route(x)[0], weights.sum(1, keepdim=True)[..., :2] + ids.sum()


class GathersRows(Mixture):
    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids, weights = super().route(x)
        return ids, weights.gather(1, ids)


class ScattersRows(Mixture):
    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids, weights = super().route(x)
        return ids, weights.scatter(1, ids, 0.5)


class GathersSequences(Mixture):
    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        ids, weights = super().route(x)
        return ids, weights.gather(0, ids % 2)


class SortsRowsItself(Mixture):
    def feed(self, x: Tensor, layer: int) -> Tensor:
        ids, weights = self.route(x)
        order = ids[..., 0].argsort(dim=1)
        return self.mix(x, ids, weights) + order[..., None]


BAD = [
    (ExpertsByPosition, OPERATOR, MIXES),
    (RouteOfAnotherRow, OPERATOR, MIXES),
    (RowsChooseRows, "aten.topk.default", ORDERS),
    (GathersRows, "aten.gather.default", PICKS),
    (ScattersRows, "aten.scatter.value", PICKS),
    (GathersSequences, "aten.gather.default", PICKS),
    (SortsRowsItself, "aten.argsort.default", ORDERS),
]


@pytest.mark.parametrize(
    ("kind", "operator", "reason"), BAD, ids=lambda v: getattr(v, "__name__", "")
)
def test_refused_by_name_with_the_reason(kind: type[Mixture], operator: str, reason: str) -> None:
    graph, context = captured(kind(), SPEC)
    with pytest.raises(NotPositionWiseError) as caught:
        run_passes(graph, context, {})
    assert f"({operator})" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "routed"), [("llada-moe-tiny", 2), ("llada2-tiny", 1), ("sdar-moe-tiny", 2)]
)
def test_the_published_models_hold_one_call_per_routed_layer(shape: str, routed: int) -> None:
    model = load_model(f"random:{shape}", dtype=torch.float64)
    graph, _ = captured(model.module, model.spec)
    assert len(calls(graph, canonical("experts"))) == routed
    assert _products_of_experts(graph) == 0


def _products_of_experts(graph: GraphModule) -> int:
    """Matrix products that read a stack of weights outside the operator."""
    stacked = [
        n for n in graph.graph.nodes if n.op == "get_attr" and "mlp.experts" in str(n.target)
    ]
    assert stacked
    return sum(user.target is not canonical("experts") for n in stacked for user in n.users)
