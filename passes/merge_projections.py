"""Merge linear layers of the same input: Q, K and V, and gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import add_buffer, aten, calls, get_tensor, item

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
    after = ("fuse_head_statistics",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        groups: dict[tuple[Node, bool], list[Node]] = {}
        for node in calls(module, aten.linear.default):
            x, weight, *bias = node.args
            mergeable = isinstance(weight, Node) and weight.op == "get_attr"
            if mergeable and (not bias or getattr(bias[0], "op", None) == "get_attr"):
                groups.setdefault((x, bool(bias)), []).append(node)  # type: ignore[arg-type]
        merged = [group for group in groups.values() if len(group) > 1]
        for group in merged:
            _merge(module, group)
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        return len(merged)


def _merge(module: GraphModule, group: list[Node]) -> None:
    first = group[0]
    x = first.args[0]
    columns = list(zip(*(node.args[1:] for node in group), strict=True))
    constants = []
    for column, kind in zip(columns, ("weight", "bias"), strict=False):
        tensor = torch.cat([get_tensor(module, node) for node in column]).detach()  # type: ignore[arg-type]
        name = f"merged_{first.name}_{kind}"
        constants.append(add_buffer(module, name, tensor, first))
    sizes = [get_tensor(module, node.args[1]).shape[0] for node in group]  # type: ignore[arg-type]
    with module.graph.inserting_before(first):
        wide = module.graph.call_function(aten.linear.default, (x, *constants))
        parts = module.graph.call_function(aten.split_with_sizes.default, (wide, sizes, -1))
        pieces = [item(parts, index) for index in range(len(group))]
    for node, piece in zip(group, pieces, strict=True):
        node.replace_all_uses_with(piece)
        module.graph.erase_node(node)
