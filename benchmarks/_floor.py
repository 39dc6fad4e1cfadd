"""The floor of a step: its matrix products alone, on a CPU with packed weights."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import torch

from dllmc.artifact import weights_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.fx import GraphModule

    from dllmc.spec import StepPlan

_HEADS = "head_statistics"


def products(graph: GraphModule, plan: StepPlan) -> list[tuple[int, Tensor]]:
    """Rows and weight of every linear product of a step, as the lowered graph has them."""
    weights = weights_of(graph)
    found = []
    for node in graph.graph.nodes:
        name = str(node.target)
        if node.op != "call_function" or not ("dllmc.linear" in name or _HEADS in name):
            continue
        rows = plan.head_rows if node.meta["narrow"] or _HEADS in name else plan.rows
        found.append((plan.batch * rows, weights[str(node.args[1].target)]))
    return found


def mark_narrow(graph: GraphModule) -> None:
    """Say of every linear whether it works on the head rows only."""
    narrow = set()
    for node in graph.graph.nodes:
        gathers = "gather_rows" in str(node.target)
        if gathers or any(source in narrow for source in node.all_input_nodes):
            narrow.add(node)
        node.meta["narrow"] = node in narrow


def product_runner(
    graph: GraphModule, plan: StepPlan, *, attention: bool = True
) -> Callable[[], None]:
    """Run the step's linear products, and those of attention, and nothing else.

    The faster of MKL's and oneDNN's packed products is taken for each shape.
    """
    mark_narrow(graph)
    calls = [_packed(rows, weight) for rows, weight in products(graph, plan)]
    if attention:
        calls += _attention_products(graph, plan)

    def run() -> None:
        with torch.no_grad():
            for call in calls:
                call()

    return _captured(run) if next(iter(weights_of(graph).values())).is_cuda else run


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    """Without the time that a GPU waits for launches."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay() -> None:
        assert run is not None  # It holds what the graph reads.
        graph.replay()

    return replay


def _packed(rows: int, weight: Tensor) -> Callable[[], Tensor]:
    x = torch.randn(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
    if weight.is_cuda:
        return lambda: torch.nn.functional.linear(x, weight)
    candidates = [_onednn(x, weight)]
    if torch.backends.mkl.is_available() and weight.dtype == torch.float32:
        candidates.append(_mkl(x, weight))
    return min(candidates, key=_quick_time)


def _onednn(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _mkl(x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, x.shape[0])
    return lambda: torch.ops.mkl._mkl_linear(x, packed, weight, None, x.shape[0])


def _attention_products(graph: GraphModule, plan: StepPlan) -> list[Callable[[], Tensor]]:
    calls: list[Callable[[], Tensor]] = []
    caches = {
        n.target: n.meta["cache_shape"] for n in graph.graph.nodes if "cache_shape" in n.meta
    }
    layers = len(caches) // 2
    heads = _query_heads(graph)
    example = next(iter(weights_of(graph).values()))
    drawn = partial(torch.randn, dtype=example.dtype, device=example.device)
    for layer in range(layers):
        groups, width = caches[f"keys_{layer}"]
        rows = plan.rows if layer < layers - 1 else plan.head_rows
        rows = rows * heads // groups
        q = drawn(plan.batch * groups, rows, width)
        k = drawn(plan.batch * groups, width, plan.slots)
        scores = drawn(plan.batch * groups, rows, plan.slots)
        v = drawn(plan.batch * groups, plan.slots, width)
        calls += [lambda q=q, k=k: torch.bmm(q, k), lambda s=scores, v=v: torch.bmm(s, v)]
    return calls


def _query_heads(graph: GraphModule) -> int:
    site = next(n for n in graph.graph.nodes if "cached_attention" in str(n.target))
    return int(site.meta["val"].shape[1])


def _quick_time(call: Callable[[], Tensor]) -> float:
    for _ in range(3):
        call()
    times = []
    for _ in range(10):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return sorted(times)[5]
