"""Evaluate the head, and all that only the head needs, on the rows that may commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    add_placeholder,
    aten,
    expression,
    first_after_placeholders,
    is_call,
    placeholder,
    value_of,
)

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node


# Arguments of `dllmc.attention` with a row per query: q, key_limit, query_positions and mask; with
# a row per key: k, v and key_positions.
_QUERY_SIDE, _KEY_SIDE = (0, 4, 5, 8), (1, 2, 6)


class NarrowHeadRows(GraphPass):
    """Everything between the last K/V and the logits works on `head_rows` only.

    Before:
        logits[B, W, V] = head(mlp(attention(q(x), k(x), v(x)) + x))
    After:
        x_r = gather_rows(x, head_rows)
        logits[B, R, V] = head(mlp(attention(q(x_r), k(x), v(x)) + x_r))

    A node is narrow if all its users are, except that K and V of attention are needed for every
    row, and that limits, positions and masks are gathered where attention reads them. So the last
    layer's query side, output projection and feed-forward are narrow too.
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
        length = expression(value_of(placeholder(module, "tokens")).shape[1])
        gathers: dict[Node, Node] = {}
        for node in [n for n in module.graph.nodes if n in narrow]:
            for source in list(node.all_input_nodes):
                if _crosses(node, source, narrow):
                    if source not in gathers:
                        gathers[source] = _gather(module, source, head_rows)
                    _replace_narrow_input(node, source, gathers[source])
                elif _is_size(source) and expression(value_of(source)) == length:
                    node.replace_input_with(source, count)
        return int(bool(gathers))


def _narrow_nodes(module: GraphModule) -> set[Node]:
    """Nodes whose every use is narrow, and whose other inputs can be gathered."""
    blocked: set[Node] = set()
    while True:
        narrow: set[Node] = set()
        for node in reversed(module.graph.nodes):
            dependent = "sequence_axis" in node.meta and node.op == "call_function"
            used = (_is_narrow_use(node, user, narrow) for user in node.users)
            if dependent and node not in blocked and all(used):
                narrow.add(node)
        strays = {
            node
            for node in narrow
            for source in node.all_input_nodes
            if _crosses(node, source, narrow) and not _can_be_gathered(source)
        }
        if not strays:
            return narrow
        blocked |= strays


def _is_narrow_use(node: Node, user: Node, narrow: set[Node]) -> bool:
    if user.op == "output":
        return True
    if user not in narrow:
        return False
    if is_call(user, canonical("attention")):
        return node is user.args[0] and node not in _arguments(user, _KEY_SIDE)
    return True


def _crosses(node: Node, source: Node, narrow: set[Node]) -> bool:
    """Whether narrow `node` reads all rows of `source` and must read few."""
    if source in narrow or "sequence_axis" not in source.meta:
        return False
    return not is_call(node, canonical("attention")) or source in _arguments(node, _QUERY_SIDE)


def _arguments(attention: Node, indices: tuple[int, ...]) -> list[object]:
    return [attention.args[index] for index in indices if index < len(attention.args)]


def _is_size(source: Node) -> bool:
    return isinstance(value_of(source), torch.SymInt)


def _can_be_gathered(source: Node) -> bool:
    """A tensor with the batch in front; parts of a list follow their producer."""
    listed = isinstance(value_of(source), list | tuple)
    return source.meta["batch_axis"] == 0 and not listed


def _replace_narrow_input(node: Node, source: Node, gathered: Node) -> None:
    if is_call(node, canonical("attention")):
        for index in _QUERY_SIDE:
            if index < len(node.args) and node.args[index] is source:
                node.update_arg(index, gathered)
    else:
        node.replace_input_with(source, gathered)


def _gather(module: GraphModule, source: Node, head_rows: Node) -> Node:
    axis = source.meta["sequence_axis"]
    early = source.op == "placeholder"
    before = first_after_placeholders(module) if early else source.next
    with module.graph.inserting_before(before):
        new = module.graph.call_function(canonical("gather_rows"), (source, head_rows, axis))
    new.meta["sequence_axis"], new.meta["batch_axis"] = axis, 0
    return new
