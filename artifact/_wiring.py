"""Who depends on whom in a step graph, and where it can be cut.

A graph is cut at its *waists*: values that every path from one input (the tokens) to the outputs
runs through. In a transformer these are the states of the residual stream, so one tensor crosses
each cut, beside what does not depend on the tokens at all (position tables, masks).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.fx import GraphModule


class UnsplittableError(Exception):
    """The graph does something that a cut could break."""


class Wiring:
    """Dependences of a graph.

    Attributes:
        calls: Nodes that compute and are needed, without `sizes`.
        changed: Inputs that calls change in place.
        before: For a call, those that must have touched a changed input before it.
        sizes: Sizes of inputs and what follows from them; each piece finds them out for itself.
        users: Calls, or the output, that depend on a node.

    Raises:
        UnsplittableError: The graph calls modules or methods, changes what is not an input, or
            looks at an input that it changes through a view.
    """

    def __init__(self, module: GraphModule) -> None:
        nodes = list(module.graph.nodes)
        self._weights: dict[str, Node] = {}
        for node in nodes:
            if node.op in ("call_module", "call_method"):
                raise UnsplittableError(f"`{node.name}` is a {node.op}")
            if node.op == "get_attr":
                self._weights.setdefault(str(node.target), node)
        self.output = nodes[-1]
        self.inputs = [node for node in nodes if node.op == "placeholder"]
        self.order = {node: index for index, node in enumerate(nodes)}
        self.changed = {node for call in nodes for node in _changed_by(call)}
        self.before = self._touched_before(nodes)
        self.sizes = _sizes(nodes)
        alive = self._alive(nodes)
        self.calls = [
            node
            for node in nodes
            if node.op == "call_function" and node in alive and node not in self.sizes
        ]
        self.users: dict[Node, list[Node]] = {node: [] for node in nodes}
        for node in (*self.calls, self.output):
            for source in self.sources(node):
                self.users[source].append(node)

    def weight(self, node: Node) -> Node:
        """One node for all that read the same weight; other nodes as they are."""
        return self._weights[str(node.target)] if node.op == "get_attr" else node

    def sources(self, node: Node) -> list[Node]:
        """What `node` reads, and who comes before it at a changed input."""
        before = self.before.get(node, [])
        return [self.weight(source) for source in (*node.all_input_nodes, *before)]

    def waists(self) -> tuple[set[Node], list[Node]]:
        """Calls on the way from the input with the most waists, and those waists in order."""
        ways = [self._way(source) for source in self.inputs if source not in self.changed]
        return max(ways, key=lambda way: len(way[1]), default=(set(), []))

    def _way(self, source: Node) -> tuple[set[Node], list[Node]]:
        way = {source}
        for node in self.calls:
            if any(read in way for read in self.sources(node)):
                way.add(node)
        # How far the values before a node are used: a waist is where nothing reaches over.
        furthest, waists = self._last_use(source), list[Node]()
        for node in self.calls:
            if node in way:
                if furthest <= self.order[node] and _gives_a_new_tensor(node):
                    waists.append(node)
                furthest = max(furthest, self._last_use(node))
        return way - {source}, waists

    def _last_use(self, node: Node) -> int:
        # What nobody uses is there for its effect, which counts like an output.
        uses = [self.order[user] for user in self.users[node]]
        return max(uses, default=self.order[self.output])

    def _touched_before(self, nodes: Sequence[Node]) -> dict[Node, list[Node]]:
        before, last = dict[Node, list[Node]](), dict[Node, Node]()
        for node in nodes:
            for source in node.all_input_nodes:
                if source not in self.changed:
                    continue
                if source.op != "placeholder" or node.op == "output" or _may_view(node):
                    raise UnsplittableError(f"`{source.name}` is changed, and seen by other names")
                if source in last:
                    before.setdefault(node, []).append(last[source])
                last[source] = node
        return before

    def _alive(self, nodes: Sequence[Node]) -> set[Node]:
        alive = set[Node]()
        for node in reversed(nodes):
            if node in alive or node.is_impure() or any(_changed_by(node)):
                alive.add(node)
                alive.update(self.sources(node))
        return alive


def _sizes(nodes: Sequence[Node]) -> set[Node]:
    found = set[Node]()
    for node in nodes:
        if node.op != "call_function":
            continue
        sources = node.all_input_nodes
        if node.target is torch.ops.aten.sym_size.int:
            known = sources[0].op == "placeholder"
        else:
            python = not isinstance(node.target, torch._ops.OpOverload)
            known = python and bool(sources) and found.issuperset(sources)
        if known:
            found.add(node)
    return found


def _changed_by(node: Node) -> Iterator[Node]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = node.args[position : position + 1] or (node.kwargs.get(argument.name),)
        yield from (value for value in given if isinstance(value, Node))


def _may_view(node: Node) -> bool:
    """Whether a result may share memory with an argument."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    return any(result.alias_info is not None for result in node.target._schema.returns)


def _gives_a_new_tensor(node: Node) -> bool:
    if _may_view(node):
        return False
    returns = node.target._schema.returns  # type: ignore[union-attr]
    return len(returns) == 1 and isinstance(returns[0].type, torch.TensorType)
