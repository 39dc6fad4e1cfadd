"""Take the repeated layers of a step graph out of line, so that each is compiled once.

before

    x1 = layer(x0, w0, keys_0); x2 = layer(x1, w1, keys_1); ...; return head(xn, ...)

after, as a graph of calls

    x0, cos, sin = first(tokens, positions, table)
    x1 = layer(x0, w0, keys_0, cos, sin)
    x2 = layer(x1, w1, keys_1, cos, sin)
    ...
    return last(xn, ...)

Weights become arguments. Whatever does not depend on the layers before, such as position tables
and masks, is computed once in the first piece. Works on any graph and knows no model: layers are
the same where their operators, constants, wiring, and the sizes, strides, dtypes and devices of
what they take are the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule, Node

from dllmc.artifact._pieces import Assembly
from dllmc.artifact._segments import Segment, Shapes, make_segment
from dllmc.artifact._wiring import UnsplittableError, Wiring

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch._subclasses import FakeTensor

# A repeated stretch of fewer calls is not worth a program: it stays with its neighbours.
_LEAST_CALLS = 8


@dataclass(frozen=True)
class Outline:
    """A step as calls of pieces.

    Attributes:
        module: Takes and returns what the step does. Its graph has inputs, weights, calls of
            pieces and picks from their results, and nothing else. A piece has no weights of its
            own, returns a tuple, and has fake examples of its inputs in their `meta["val"]`.
            Where nothing is repeated, the step itself.
        reason: Why nothing was taken out of line, or None.
    """

    module: GraphModule
    reason: str | None

    @property
    def calls(self) -> Counter[str]:
        """How many times each piece is called, in the order of the first calls."""
        nodes = self.module.graph.nodes
        return Counter(str(node.target) for node in nodes if node.op == "call_module")

    @property
    def pieces(self) -> dict[str, GraphModule]:
        """Every piece by name; none where nothing was taken out of line."""
        found = {name: self.module.get_submodule(name) for name in self.calls}
        return {name: piece for name, piece in found.items() if isinstance(piece, GraphModule)}


def outline(graph: GraphModule, examples: Mapping[str, FakeTensor]) -> Outline:
    """Find the repeated layers of a step.

    Args:
        graph: A lowered step; it stays as it is and its weights are used in place.
        examples: Of every input by name, fake tensors of one mode. Quantities that may differ
            when the pieces run (rows, slots) have symbolic sizes, or sizes of their own.
    """
    try:
        wiring = Wiring(graph)
        shapes = Shapes(wiring, graph, examples)
        prologue, segments = _cut(wiring, shapes)
        segments = _join(segments, wiring, shapes)
    except UnsplittableError as error:
        return Outline(graph, str(error))
    repeated = _repeated(segments)
    if not repeated:
        return Outline(graph, "no stretch of it is repeated")
    assembly = Assembly(graph, wiring, shapes)
    for form, run in groupby(segments, lambda part: part.form if part.form in repeated else None):
        if form is not None:
            assembly.add(prologue)
            for layer in run:
                assembly.call_layer(layer)
        else:
            assembly.add([*prologue, *(node for part in run for node in part.nodes)])
        prologue = []
    return Outline(assembly.finish(), None)


def in_one_piece(graph: GraphModule, examples: Mapping[str, FakeTensor]) -> Outline:
    """The whole of a step as one piece, with its weights as arguments.

    Args:
        graph: As for `outline`.
        examples: As for `outline`.

    Raises:
        UnsplittableError: The graph is none of a step.
    """
    wiring = Wiring(graph)
    assembly = Assembly(graph, wiring, Shapes(wiring, graph, examples))
    assembly.add(wiring.calls)
    return Outline(assembly.finish(), None)


def _cut(wiring: Wiring, shapes: Shapes) -> tuple[list[Node], list[Segment]]:
    """What comes first, and a segment up to every waist and after the last."""
    way, waists = wiring.waists()
    homes = _homes(wiring, way, waists)
    prologue = [node for node in wiring.calls if homes[node] is None]
    shapes.values |= shapes.run(prologue)
    segments, known = list[Segment](), dict[Any, Node]()
    bounds = [None, *waists, None]
    for number, (entry, leave) in enumerate(pairwise(bounds)):
        nodes = [node for node in wiring.calls if homes[node] == number]
        made = make_segment(wiring, shapes, nodes, entry, leave)
        segments.append(made)
        if leave is None:
            continue
        # Running a graph on fake tensors takes longer than all else here: once per form.
        if made.form in known:
            shapes.values[leave] = shapes.values[known[made.form]]
        else:
            shapes.values[leave] = shapes.run(nodes)[leave]
            known[made.form] = leave
    return prologue, segments


def _homes(wiring: Wiring, way: set[Node], waists: Sequence[Node]) -> dict[Node, int | None]:
    """The number of every call's segment; None for what several segments use."""
    homes: dict[Node, int | None] = {wiring.output: None}
    ends = [wiring.order[waist] for waist in waists]
    for node in reversed(wiring.calls):
        if node in way:
            homes[node] = sum(end < wiring.order[node] for end in ends)
            continue
        if wiring.changed.intersection(node.all_input_nodes):
            raise UnsplittableError(f"`{node.name}` reads or changes a cache on its own")
        users = {homes[user] for user in wiring.users[node]}
        homes[node] = users.pop() if len(users) == 1 else None
    return homes


def _join(segments: list[Segment], wiring: Wiring, shapes: Shapes) -> list[Segment]:
    """Join what always stands together: the two halves of a layer, or layers that alternate."""
    while True:
        pair = _pair(segments, wiring)
        if pair is None:
            return segments
        joined, number = list[Segment](), 0
        while number < len(segments):
            first, second = segments[number], segments[min(number + 1, len(segments) - 1)]
            if (first.form, second.form) != pair:
                joined.append(first)
                number += 1
                continue
            nodes = [*first.nodes, *second.nodes]
            joined.append(make_segment(wiring, shapes, nodes, first.entry, second.leave))
            number += 2
        segments = joined


def _pair(segments: Sequence[Segment], wiring: Wiring) -> tuple[Any, Any] | None:
    """The most frequent pair of neighbours that belong together."""
    single = Counter(segment.form for segment in segments)
    pairs = Counter((a.form, b.form) for a, b in pairwise(segments) if a.form != b.form)
    writes = {s.form: any(take in wiring.changed for take in s.takes) for s in segments}

    def belong(pair: tuple[Any, Any]) -> bool:
        alone = [single[form] > pairs[pair] for form in pair]
        # A stretch without a cache is only part of a layer, and joins one of its neighbours.
        return not any(alone) or (not all(alone) and not all(writes[form] for form in pair))

    found = [(pair, count) for pair, count in pairs.items() if count > 1 and belong(pair)]
    return max(found, key=lambda item: item[1], default=(None, 0))[0]


def _repeated(segments: Sequence[Segment]) -> set[Any]:
    counts = Counter(segment.form for segment in segments)
    return {s.form for s in segments if counts[s.form] > 1 and len(s.nodes) >= _LEAST_CALLS}
