"""Which lines of the model's code each node of a graph came from, however passes rewrite it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dllmc.compiler._source import is_users

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]*)')


@dataclass(frozen=True, order=True, slots=True)
class Source:
    """A line of the model's code.

    Attributes:
        file: Its path.
        line: Its number, from 1.
        code: Its text.
    """

    file: str
    line: int
    code: str


def source_of(node: Node) -> Source | None:
    """The innermost line of the user's that led to a captured node, or None."""
    frames = _FRAME.finditer(str(node.meta.get("stack_trace", "")))
    own = [frame for frame in frames if is_users(frame["file"])]
    if not own:
        return None
    return Source(own[-1]["file"], int(own[-1]["line"]), own[-1]["code"].strip())


class Provenance:
    """For each node of a graph, the captured nodes that it stands for.

    A pass builds nodes and puts them in the places of others. What such a node stands for is all
    that lies between the replaced node and the inputs of its replacement. It is found at the
    moment of replacement, through the hooks of the graph module, so that no pass has to tell.

    Args:
        module: As captured, before any pass.
    """

    def __init__(self, module: GraphModule) -> None:
        self._module = module
        self._origins: dict[Node, frozenset[Node]] = {
            node: frozenset({node}) for node in module.graph.nodes if node.op == "call_function"
        }
        self._order = {node: index for index, node in enumerate(module.graph.nodes)}
        self._begin_pass()
        # Private to torch, and the only way to see a replacement before the old node is gone.
        module._register_create_node_hook(self._created_one)
        module._register_replace_node_hook(self._replaced_one)

    def end_pass(self) -> None:
        """What follows belongs to the next pass."""
        for node in self._module.graph.nodes:
            # Of what stands in no other's place, only what its pass says is known.
            self._origins.setdefault(node, frozenset())
        self._begin_pass()

    def stop(self) -> None:
        """Let the graph go."""
        self._module._unregister_create_node_hook(self._created_one)
        self._module._unregister_replace_node_hook(self._replaced_one)

    def captured(self, node: Node) -> tuple[Node, ...]:
        """The captured nodes that `node` stands for, in their order."""
        return tuple(sorted(self._origins.get(node, ()), key=self._order.__getitem__))

    def sources(self, node: Node) -> tuple[Source, ...]:
        """The lines that `node` came from, each once, in the order of the captured graph."""
        found = [source_of(origin) for origin in self.captured(node)] or [source_of(node)]
        return tuple(dict.fromkeys(source for source in found if source is not None))

    def _begin_pass(self) -> None:
        self._created: dict[str, Node] = {}
        self._placed: set[Node] = set()
        # Each node's bit, and those of all that it is computed from: ancestry by one `&`.
        self._bit: dict[Node, int] = {}
        self._above: dict[Node, int] = {}
        for index, node in enumerate(self._module.graph.nodes):
            self._bit[node] = 1 << index
            self._above[node] = self._bit[node]
            for source in node.all_input_nodes:
                self._above[node] |= self._above[source]

    def _created_one(self, node: Node) -> None:
        self._created[node.name] = node

    def _replaced_one(self, old: Node, new: str, user: Node) -> None:
        del user
        node = self._created.get(new)
        if node is None or node is old:
            return
        parts, inputs = self._built(node)
        origins = self._between(old, inputs)
        for part in parts:
            self._origins[part] = self._origins.get(part, frozenset()) | origins
        self._placed.add(node)
        self._above.setdefault(node, self._above.get(old, 0))

    def _built(self, node: Node) -> tuple[list[Node], set[Node]]:
        """New nodes that were built to compute `node`, and what they are computed from."""
        fresh, parts, left = set(self._created.values()), [node], [node]
        inputs: set[Node] = set()
        while left:
            for source in left.pop().all_input_nodes:
                if source not in fresh or source in self._placed:
                    inputs.add(source)
                elif source not in parts:
                    parts.append(source)
                    left.append(source)
        return parts, inputs

    def _between(self, old: Node, inputs: set[Node]) -> frozenset[Node]:
        """What the nodes from `inputs` to `old` stand for."""
        above = 0
        for node in inputs:
            above |= self._above.get(node, 0)
        seen, left = {old}, [old]
        found: frozenset[Node] = frozenset()
        while left:
            node = left.pop()
            found |= self._origins.get(node, frozenset())
            for source in node.all_input_nodes:
                if source in seen or source in inputs or self._bit.get(source, 0) & above:
                    continue
                seen.add(source)
                left.append(source)
        return found
