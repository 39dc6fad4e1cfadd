"""Stretches of a step graph, in a form that is equal where they compute the same."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_map

from dllmc.artifact._wiring import UnsplittableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch._subclasses import FakeTensor, FakeTensorMode
    from torch.fx import GraphModule

    from dllmc.artifact._wiring import Wiring


@dataclass(frozen=True, eq=False)
class Segment:
    """A stretch between two waists.

    Attributes:
        nodes: Its calls, in the graph's order.
        entry: The waist before it; None for the first.
        leave: The waist that it ends with; None for the last.
        form: What it computes, everything from outside numbered. Segments of equal form are the
            same function of what they take.
        takes: Nodes from outside, in the order of their numbers.
    """

    nodes: tuple[Node, ...]
    entry: Node | None
    leave: Node | None
    form: tuple[Any, ...]
    takes: tuple[Node, ...]


class Shapes:
    """Fake values of a graph's nodes, computed where asked.

    Args:
        wiring: Of the graph.
        module: The graph with its weights.
        inputs: By name, fake tensors of one mode.
    """

    def __init__(
        self, wiring: Wiring, module: GraphModule, inputs: Mapping[str, FakeTensor]
    ) -> None:
        self._module = module
        self._mode: FakeTensorMode = next(iter(inputs.values())).fake_mode
        self.values: dict[Node, Any] = {n: inputs[str(n.target)] for n in wiring.inputs}

    def run(self, nodes: Sequence[Node]) -> dict[Node, Any]:
        """Values of `nodes`, whose inputs from outside are known."""
        own: dict[Node, Any] = {}

        def value(node: Node) -> Any:
            if node in self.values:
                return self.values[node]
            if node not in own:
                own[node] = self._compute(node, value)
            return own[node]

        # With it products take sizes as symbols: torch 2.11 has them count elements otherwise.
        with self._mode, torch.no_grad(), enable_python_dispatcher():
            return {node: value(node) for node in nodes}

    def _compute(self, node: Node, value: Any) -> Any:
        if node.op == "get_attr":
            return self._mode.from_tensor(weight_of(self._module, node), static_shapes=True)
        args, kwargs = map_arg((node.args, node.kwargs), value)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def describe(self, node: Node) -> tuple[str, ...]:
        """What a piece is compiled for: sizes, strides, dtype and device."""
        tensor = weight_of(self._module, node) if node.op == "get_attr" else self.example(node)
        return tuple(map(str, (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)))

    def example(self, node: Node) -> torch.Tensor:
        """The fake value of a node that crosses a cut.

        Raises:
            UnsplittableError: The value is not a tensor, or has a size that no input has.
        """
        value = self.run([node])[node]
        if not isinstance(value, torch.Tensor):
            raise UnsplittableError(f"`{node.name}` would cross a cut and is no tensor")
        sizes: Sequence[Any] = value.shape
        if not all(isinstance(size, int) or size.node.expr.is_symbol for size in sizes):
            raise UnsplittableError(f"`{node.name}` would cross a cut with a computed size")
        return value


def weight_of(module: GraphModule, node: Node) -> torch.Tensor:
    """The tensor that a `get_attr` node reads."""
    weight: torch.Tensor = operator.attrgetter(str(node.target))(module)
    return weight


def make_segment(
    wiring: Wiring,
    shapes: Shapes,
    nodes: Sequence[Node],
    entry: Node | None,
    leave: Node | None,
) -> Segment:
    """A segment of `nodes`, in the graph's order.

    Only weights, changed inputs and the entry may differ between segments of equal form, and
    only in what they hold; anything else from outside must be the same value.
    """
    inside = {*nodes, *wiring.sizes}
    numbers, takes = dict[Node, int](), dict[Node, int]()
    form: list[Any] = []

    def name(node: Node) -> tuple[Any, ...]:
        node = wiring.weight(node)
        if node in numbers:
            return ("call", numbers[node])
        number = takes.setdefault(node, len(takes))
        if node is entry:
            return ("entry", number, shapes.describe(node))
        if node.op == "get_attr" or node in wiring.changed:
            return ("own", number, node.op, shapes.describe(node))
        return ("shared", number, node.name)

    roots = [leave] if leave is not None else list(nodes)
    for node in _postorder(wiring, roots, inside):
        arguments = tree_map(
            lambda value: name(value) if isinstance(value, Node) else _constant(value),
            (node.args, dict(node.kwargs), wiring.before.get(node, [])),
            is_leaf=lambda value: isinstance(value, Node),
        )
        form.append((str(node.target), _frozen(arguments)))
        numbers[node] = len(numbers)
    return Segment(tuple(nodes), entry, leave, tuple(form), tuple(takes))


def _postorder(wiring: Wiring, roots: Sequence[Node], inside: set[Node]) -> Iterator[Node]:
    """Nodes that `roots` need, after what they need themselves, in an order of their own.

    The order depends on the computation alone and not on where passes have put nodes.
    """
    done = set[Node]()
    stack = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if ready:
            done.add(node)
            yield node
            continue
        stack.append((node, True))
        needed = [source for source in wiring.sources(node) if source in inside]
        stack.extend((source, False) for source in reversed(needed))


def _constant(value: object) -> tuple[str, str]:
    # By text: 1, 1.0 and True are equal, and so are 0.0 and -0.0.
    return ("constant", f"{type(value).__name__} {value!r}")


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _frozen(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value
