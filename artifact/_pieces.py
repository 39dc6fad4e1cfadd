"""Build pieces from nodes of a graph, and the graph that calls them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from dllmc.artifact._segments import weight_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.artifact._segments import Segment, Shapes
    from dllmc.artifact._wiring import Wiring


class Assembly:
    """The calling graph, as far as it is built.

    Args:
        graph: Whose nodes are distributed over pieces.
        wiring: Its dependences.
        shapes: Its values that cross from piece to piece.
    """

    def __init__(self, graph: GraphModule, wiring: Wiring, shapes: Shapes) -> None:
        self._source = graph
        self._wiring = wiring
        self._shapes = shapes
        self._graph = Graph()
        self._root: dict[str, Any] = {}
        self._layers: dict[Any, str] = {}
        self._known = {node: self._graph.node_copy(node) for node in wiring.inputs}

    def add(self, nodes: Sequence[Node]) -> None:
        """Make `nodes`, in the graph's order, a piece of their own and call it."""
        if nodes:
            nodes = sorted(nodes, key=self._wiring.order.__getitem__)
            inside = set(nodes)
            gives = [n for n in nodes if any(u not in inside for u in self._wiring.users[n])]
            name, takes = self._make(nodes, gives, None)
            self._call(name, takes, gives)

    def call_layer(self, segment: Segment) -> None:
        """Call the piece of segments like this one, made from the first of them."""
        assert segment.leave is not None
        gives = [segment.leave]
        if segment.form not in self._layers:
            self._layers[segment.form], _ = self._make(segment.nodes, gives, segment.takes)
        self._call(self._layers[segment.form], segment.takes, gives)

    def finish(self) -> GraphModule:
        """The module that takes and returns what the graph did."""
        result = map_arg(self._wiring.output.args[0], self._value)
        self._graph.output(result)
        self._graph.lint()
        return GraphModule(self._root, self._graph, "Outline")

    def _value(self, node: Node) -> Node:
        """What stands for a node of the source in the calling graph."""
        node = self._wiring.weight(node)
        if node not in self._known:
            assert node.op == "get_attr"
            self._root[str(node.target)] = weight_of(self._source, node)
            self._known[node] = self._graph.node_copy(node)
        return self._known[node]

    def _call(self, name: str, takes: Sequence[Node], gives: Sequence[Node]) -> None:
        arguments = tuple(self._value(node) for node in takes)
        call = self._graph.call_module(name, arguments)
        for number, node in enumerate(gives):
            self._known[node] = self._graph.call_function(operator.getitem, (call, number))

    def _make(
        self, nodes: Sequence[Node], gives: Sequence[Node], takes: Sequence[Node] | None
    ) -> tuple[str, Sequence[Node]]:
        """A piece of `nodes`; `takes` are its inputs in order, or found out."""
        piece, copies = Graph(), dict[Node, Node]()
        if takes is None:
            takes = self._found(nodes)
        for number, node in enumerate(takes):
            copies[node] = piece.placeholder(f"take_{number}")
            copies[node].meta["val"] = self._shapes.example(node)

        def copy(node: Node) -> Node:
            node = self._wiring.weight(node)
            if node not in copies:
                # Sizes are found out where they are needed first.
                args, kwargs = map_arg((node.args, node.kwargs), copy)
                # Pieces that are the same have the same names.
                name = f"call_{len(copies) - len(takes)}"
                copies[node] = piece.create_node(node.op, node.target, args, kwargs, name)
                copies[node].meta = node.meta.copy()
            return copies[node]

        for node in nodes:
            copy(node)
        piece.output(tuple(copies[node] for node in gives))
        piece.lint()
        name = f"piece_{len(self._root_pieces())}"
        self._root[name] = GraphModule({}, piece, name.title().replace("_", ""))
        return name, takes

    def _root_pieces(self) -> list[str]:
        return [name for name, value in self._root.items() if isinstance(value, GraphModule)]

    def _found(self, nodes: Sequence[Node]) -> list[Node]:
        inside, found, waiting = set(nodes), dict[Node, None](), list(reversed(nodes))
        while waiting:
            node = waiting.pop()
            for source in self._wiring.sources(node):
                if source in self._wiring.sizes:
                    waiting.append(source)
                elif source not in inside:
                    found.setdefault(source)
        return list(found)
