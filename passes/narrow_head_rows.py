"""Evaluate the head, and all that only the head needs, on the rows that may commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    add_placeholder,
    aten,
    first_after_placeholders,
    is_call,
    placeholder,
    value_of,
)

if TYPE_CHECKING:
    from torch.fx import GraphModule


class NarrowHeadRows(GraphPass):
    """Everything between the last K/V and the logits works on `head_rows` only.

    Before:
        logits[B, W, V] = head(mlp(attention(q(x), k(x), v(x)) + x))
    After:
        x_r = gather_rows(x, head_rows)
        logits[B, R, V] = head(mlp(attention(q(x_r), k(x), v(x)) + x_r))

    A node is narrow if all its users are, except that K and V of attention are needed for every
    row; so the last layer's query side, output projection and feed-forward are narrow too.
    """

    name = "narrow_head_rows"
    stage = Stage.SPECIALISE

    def expected(self, context: PassContext) -> int:
        del context
        return 1

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        head_rows = add_placeholder(module, "head_rows")
        narrow = _narrow_nodes(module)
        with module.graph.inserting_before(first_after_placeholders(module)):
            count = module.graph.call_function(aten.sym_size.int, (head_rows, 1))
        length = value_of(placeholder(module, "tokens")).shape[1].node.expr
        gathers: dict[Node, Node] = {}
        for node in [n for n in module.graph.nodes if n in narrow]:
            for source in list(node.all_input_nodes):
                if source in narrow or _stays_wide(node, source):
                    continue
                if "sequence_axis" in source.meta:
                    if source not in gathers:
                        gathers[source] = _gather(module, source, head_rows)
                    _replace_narrow_input(node, source, gathers[source])
                elif isinstance(value_of(source), torch.SymInt):
                    if value_of(source).node.expr == length:
                        node.replace_input_with(source, count)
        return int(bool(gathers))


def _stays_wide(node: Node, source: Node) -> bool:
    return is_call(node, canonical("attention")) and source is not node.args[0]


def _replace_narrow_input(node: Node, source: Node, gathered: Node) -> None:
    if is_call(node, canonical("attention")):
        node.update_arg(0, gathered)
    else:
        node.replace_input_with(source, gathered)


def _gather(module: GraphModule, source: Node, head_rows: Node) -> Node:
    axis = source.meta["sequence_axis"]
    with module.graph.inserting_after(source):
        new = module.graph.call_function(canonical("gather_rows"), (source, head_rows, axis))
    new.meta["sequence_axis"] = axis
    return new


def _narrow_nodes(module: GraphModule) -> set[Node]:
    narrow: set[Node] = set()
    for node in reversed(module.graph.nodes):
        dependent = "sequence_axis" in node.meta and node.op == "call_function"
        if dependent and all(_is_narrow_use(node, user, narrow) for user in node.users):
            narrow.add(node)
    # A boundary must be a tensor: parts of a list follow their producer.
    while strays := {
        node
        for node in narrow
        if not isinstance(value_of(node.all_input_nodes[0]), torch.Tensor | None.__class__)
        and node.all_input_nodes[0].op == "call_function"
        and isinstance(value_of(node.all_input_nodes[0]), list | tuple)
        and node.all_input_nodes[0] not in narrow
    }:
        narrow -= strays
        for node in [n for n in narrow if any(u in strays for u in n.users)]:
            narrow.discard(node)
    return narrow


def _is_narrow_use(node: Node, user: Node, narrow: set[Node]) -> bool:
    if user.op == "output":
        return True
    if user not in narrow:
        return False
    return not (is_call(user, canonical("attention")) and node in user.args[1:3])
