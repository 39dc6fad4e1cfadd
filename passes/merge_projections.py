"""Merge linear layers of the same input: Q, K and V, and gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import add_buffer, argument, aten, calls, get_tensor, item

if TYPE_CHECKING:
    from torch.fx import GraphModule


class MergeProjections(GraphPass):
    """One wide matrix product instead of several narrow ones.

    Before:
        q = linear(x, Wq); k = linear(x, Wk); v = linear(x, Wv)
    After:
        q, k, v = split(linear(x, cat(Wq, Wk, Wv)), [Dq, Dk, Dv], -1)

    In the last layer Q reads other rows than K and V and stays alone.
    """

    name = "merge_projections"
    stage = Stage.SPECIALISE
    optional = True
    after = ("fuse_head_statistics",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        groups: dict[tuple[Node, bool], list[Node]] = {}
        for node in calls(module, aten.linear.default):
            weight, bias = argument(node, "weight"), argument(node, "bias")
            if _is_constant(weight) and (bias is None or _is_constant(bias)):
                x = argument(node, "input")
                groups.setdefault((x, bias is not None), []).append(node)
        merged = [group for group in groups.values() if len(group) > 1]
        for group in merged:
            _merge(module, group)
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        return len(merged)


def _is_constant(node: object) -> bool:
    return isinstance(node, Node) and node.op == "get_attr"


def _merge(module: GraphModule, group: list[Node]) -> None:
    first = group[0]
    weights = [get_tensor(module, argument(node, "weight")) for node in group]
    constants = [_joined(module, weights, f"merged_{first.name}_weight", first)]
    if argument(first, "bias") is not None:
        biases = [get_tensor(module, argument(node, "bias")) for node in group]
        constants.append(_joined(module, biases, f"merged_{first.name}_bias", first))
    sizes = [weight.shape[0] for weight in weights]
    with module.graph.inserting_before(first):
        wide = module.graph.call_function(
            aten.linear.default, (argument(first, "input"), *constants)
        )
        parts = module.graph.call_function(aten.split_with_sizes.default, (wide, sizes, -1))
        pieces = [item(parts, index) for index in range(len(group))]
    for node, piece in zip(group, pieces, strict=True):
        node.replace_all_uses_with(piece)
        module.graph.erase_node(node)


def _joined(module: GraphModule, tensors: list[torch.Tensor], name: str, before: Node) -> Node:
    return add_buffer(module, name, torch.cat(tensors).detach(), before)
