"""Numbers that a graph computes from constants alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from dllmc.passes._graph import get_tensor, value_of

if TYPE_CHECKING:
    from torch.fx import GraphModule


def constant_of(value: object) -> float | None:
    """The number that `value` always is: a number, or a tensor of one element that follows from
    parameters and constants alone; else None.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, Node):
        return None
    recorded = value_of(value)
    if not isinstance(recorded, torch.Tensor) or recorded.numel() != 1:
        return None
    if not is_constant(value):
        return None
    with torch.no_grad():
        return float(_evaluated(value))


def is_constant(node: Node) -> bool:
    """Whether no input of the graph leads to `node`, not even by its size."""
    if node.op != "call_function":
        return node.op == "get_attr"
    return all(is_constant(source) for source in node.all_input_nodes)


def _evaluated(node: Node) -> Any:
    if node.op == "get_attr":
        owner: GraphModule | None = node.graph.owning_module
        assert owner is not None
        return get_tensor(owner, node)
    assert callable(node.target)
    args, kwargs = map_arg((node.args, node.kwargs), _evaluated)
    return node.target(*args, **kwargs)
