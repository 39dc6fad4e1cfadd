"""The steps of a joint sampler: a layer between the hidden states of a denoiser and its head."""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.fx import Graph, GraphModule, Node

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from dllmc.artifact.package import Package

_EMBEDDING = torch.ops.aten.embedding.default
_HEADS = ("head_statistics", "sampled_head_statistics")
_GREEDY_ARGUMENTS = 4
# Placeholders of a step that mean the same here.
_COUNTERS = ("temperature", "seed", "stream", "nfe")


def joint_package(
    package: Package, weights: Sequence[Tensor], heads: int, theta: float
) -> Package:
    """`package` with steps that run a joint sampler's layer instead of the denoiser.

    Inputs by name: `hidden` `[B, R, D]`, `tokens`, `positions` `[B, R]` int64, `offered` `[B, R]`
    bool, and those of sampling. They return what the denoiser's steps do, of the same head.

    Args:
        package: Of the denoiser; its embedding and head are used, and not copied.
        weights: Of the layer, in the order of the operator `dllmc::joint_layer`.
        heads: Attention heads of the layer.
        theta: Base of its rotation.

    Raises:
        ConfigError: The layer does not fit the denoiser.
    """
    _check_width(package, weights[0].shape[0])
    dtype = getattr(torch, package.dtype)
    graphs = {
        name: _step(graph, [weight.to(dtype) for weight in weights], heads, theta)
        for name, graph in package.graphs.items()
        if name != "none"
    }
    return dataclasses.replace(package, name=f"{package.name}+joint", graphs=graphs)


def _step(plain: GraphModule, weights: list[Tensor], heads: int, theta: float) -> GraphModule:
    fused = _head_of(plain)
    site = next((node for node in plain.graph.nodes if node.target is _EMBEDDING), None)
    if fused is None or site is None:
        raise ConfigError(
            "the model has no embedding of its tokens, or no head that makes logits of its hidden "
            "states, so that no joint sampler can stand between; use `verify.kind`='none'"
        )
    graph, constants = Graph(), dict[str, torch.Tensor]()
    given = {n: graph.placeholder(n) for n in ("hidden", "tokens", "positions", "offered")}
    sampled = len(fused.args) > _GREEDY_ARGUMENTS
    if sampled:
        given |= {name: graph.placeholder(name) for name in _COUNTERS}
    table, *head = (
        _copy(plain, graph, argument, constants)
        for argument in (site.args[0], *fused.args[1:_GREEDY_ARGUMENTS])
    )
    given["hidden"].meta["row_width"] = weights[0].shape[0]
    named = []
    for index, weight in enumerate(weights):
        device = next(iter(constants.values())).device
        constants[f"joint_{index}"] = weight.to(device)
        named.append(graph.create_node("get_attr", f"joint_{index}"))
    embedded = graph.call_function(_EMBEDDING, (table, given["tokens"]))
    rows = (given["hidden"], embedded, given["positions"], given["offered"])
    layer: Any = torch.ops.dllmc.joint_layer.torch
    x = graph.call_function(layer, (*rows, named, heads, theta))
    drawn = [given[n] for n in ("temperature", "seed", "stream", "positions", "nfe") if sampled]
    target: Any = fused.target
    results = graph.call_function(target, (x, *head, *drawn))
    items = (graph.call_function(operator.getitem, (results, index)) for index in range(3))
    graph.output(tuple(items))
    graph.lint()
    return GraphModule(constants, graph)


def _head_of(plain: GraphModule) -> Node | None:
    """The node that makes statistics of hidden states."""
    results = cast("tuple[Node, ...]", plain.graph.output_node().args[0])
    fused = cast("Node", results[0].args[0])
    return fused if getattr(fused.target, "_opname", "") in _HEADS else None


def _copy(plain: GraphModule, graph: Graph, argument: Any, constants: dict[str, Tensor]) -> Any:
    """`argument` of a node, and all that it is computed from, in `graph`."""
    if not isinstance(argument, Node):
        return argument
    if argument.op == "placeholder":
        raise ConfigError(
            f"the model's head or embedding depends on `{argument.target}`, so that no joint "
            "sampler can use it; use `verify.kind`='none'"
        )
    if argument.op == "get_attr":
        constants[str(argument.target)] = operator.attrgetter(str(argument.target))(plain)
    return graph.node_copy(argument, lambda node: _copy(plain, graph, node, constants))


def _check_width(package: Package, layer_width: int) -> None:
    """Raise `ConfigError` if a layer of this width does not fit the denoiser."""
    plain = package.graphs["greedy"]
    fused = _head_of(plain)
    head = None if fused is None else cast("Node", fused.args[1])
    if head is None or head.op != "get_attr":
        return
    weight: Tensor = operator.attrgetter(str(head.target))(plain)
    if weight.shape[1] != layer_width:
        raise ConfigError(
            f"the layer of the joint sampler has width {layer_width}, and the hidden states of "
            f"{package.name!r} have {weight.shape[1]}; give the layer that was trained on it"
        )
