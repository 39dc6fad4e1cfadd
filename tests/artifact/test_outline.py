from __future__ import annotations

import functools
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import operators, ready_for
from graphs.toys import SPEC, Toy, llada
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)

from dllmc.artifact.outline import Outline, outline
from dllmc.passes.lower_operators import LowerOperators
from dllmc.runtime.programs.base import arguments, example_inputs
from dllmc.spec import StepPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from torch.fx import Node

    from dllmc.spec import DenoiserSpec

PLAN = StepPlan(batch=3, rows=7, head_rows=5, slots=11, dtype="float64")
CPU = torch.device("cpu")


@functools.cache
def lowered(module: nn.Module, spec: DenoiserSpec) -> GraphModule:
    graph, context = ready_for("lower_operators", module, spec)
    LowerOperators().run(graph, context)
    return graph


def outlined(graph: GraphModule, examples: dict[str, Tensor] | None = None) -> Outline:
    examples = examples or example_inputs(graph, PLAN, CPU)
    mode = FakeTensorMode()
    return outline(graph, {name: mode.from_tensor(value) for name, value in examples.items()})


def sequence(found: Outline) -> list[str]:
    """Pieces in the order of their calls, as letters: `abbbc`."""
    letters = dict[str, str]()
    nodes = [node for node in found.module.graph.nodes if node.op == "call_module"]
    return [letters.setdefault(str(n.target), chr(ord("a") + len(letters))) for n in nodes]


def same_results(graph: GraphModule, found: Outline) -> bool:
    """Whether both compute the same from random inputs, and leave the same caches, bit by bit."""
    given = example_inputs(graph, PLAN, CPU)
    for name, value in given.items():
        if value.is_floating_point():
            value.normal_()
        elif name == "tokens":
            value.random_(SPEC.vocab_size - 1)
    copies = {name: value.clone() for name, value in given.items()}
    old, new = (m(*arguments(graph, v)) for m, v in ((graph, given), (found.module, copies)))
    pairs = [*zip(old, new, strict=True), *((given[name], copies[name]) for name in given)]
    return all(torch.equal(a, b) for a, b in pairs)


class Layered(Toy):
    """A toy whose feed-forward part is of a kind per layer."""

    kinds = "gggg"

    def __init__(self) -> None:
        self.layers = len(self.kinds)
        super().__init__()

    def feed(self, x: Tensor, layer: int) -> Tensor:
        y = self.up[layer](x)
        y = F.gelu(y) if self.kinds[layer] == "g" else F.relu(y) * 2
        return self.down[layer](y)


def of_kinds(kinds: str) -> GraphModule:
    return lowered(type("Layered", (Layered,), {"kinds": kinds})(), SPEC)


def test_the_layers_of_a_llada_are_one_piece() -> None:
    graph = lowered(*llada(n_layers=4))
    found = outlined(graph)
    # The last layer evaluates fewer rows, and stays with the head.
    assert sequence(found) == list("abbbc")
    assert found.reason is None
    calls = [n for n in found.module.graph.nodes if n.op == "call_module"][1:4]
    assert len({id(found.module.get_submodule(str(call.target))) for call in calls}) == 1
    for layer, call in enumerate(calls):
        caches = {str(n.target) for n in call.args if "cache_shape" in n.meta}
        assert caches == {f"keys_{layer}", f"values_{layer}"}
    weights = [{str(n.target) for n in call.args if n.op == "get_attr"} for call in calls]
    assert [len(names) for names in weights] == [6, 6, 6]
    assert len(set.union(*weights)) == 18


def test_one_value_goes_from_layer_to_layer() -> None:
    found = outlined(lowered(*llada(n_layers=4)))
    calls = [n for n in found.module.graph.nodes if n.op == "call_module"]
    for before, call in itertools.pairwise(calls[1:4]):
        assert sum(given.all_input_nodes == [before] for given in call.args) == 1


def test_tables_are_looked_up_once() -> None:
    first, layer, last = outlined(lowered(*llada(n_layers=4))).pieces.values()
    assert operators(first)["aten.index.Tensor"] == 2
    assert operators(layer)["aten.index.Tensor"] == operators(last)["aten.index.Tensor"] == 0


def test_no_call_is_lost_or_doubled() -> None:
    graph = lowered(*llada(n_layers=4))
    found, total = outlined(graph), Counter[str]()
    for name, count in found.calls.items():
        total.update({op: n * count for op, n in operators(found.pieces[name]).items()})
    expected = operators(graph)
    # Each piece asks its own inputs for their sizes.
    del total["aten.sym_size.int"], expected["aten.sym_size.int"]
    assert total == expected


def test_a_llada_computes_the_same() -> None:
    graph = lowered(*llada(n_layers=4))
    assert same_results(graph, outlined(graph))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        # The first one differs and stays with what comes first.
        ("rggg", "abbc"),
        ("ggrggrg", "abbcbbcd"),
        # Layers that alternate are compiled as a pair.
        ("grgrg", "abbc"),
    ],
)
def test_layers_are_grouped_by_what_they_compute(kinds: str, expected: str) -> None:
    graph = of_kinds(kinds)
    found = outlined(graph)
    assert "".join(sequence(found)) == expected
    assert same_results(graph, found)


def test_a_step_without_repeated_layers_stays_whole() -> None:
    graph = lowered(*llada())
    found = outlined(graph)
    assert found.module is graph
    assert not found.pieces
    assert found.reason == "no stretch of it is repeated"


def chain(blocks: Sequence[Any], **inputs: Tensor) -> tuple[GraphModule, dict[str, Tensor]]:
    """Residual blocks of ten calls or more; `blocks` add what makes them differ."""
    graph, root = Graph(), dict[str, torch.Tensor]()
    known = {name: graph.placeholder(name) for name in inputs}
    x = graph.call_function(torch.ops.aten.mul.Tensor, (known["x"], 2))

    def call(name: str, *args: Any) -> Node:
        return graph.call_function(getattr(torch.ops.aten, name).default, args)

    for number, block in enumerate(blocks):
        root[f"w{number}"] = torch.randn(4, 4)
        y = call("mm", x, graph.get_attr(f"w{number}"))
        for _ in range(4):
            y = call("relu", call("sin", y))
        y = block(graph, y, known, root) if block else y
        x = add(graph, x, y)
    graph.output((x,))
    return GraphModule(root, graph), inputs


def blocks_of(blocks: Sequence[Any]) -> list[str]:
    inputs = {name: torch.randn(3, 4) for name in ("x", "p", "q")}
    graph, examples = chain(blocks, **inputs)
    found = outlined(graph, examples)
    assert all(map(torch.equal, graph(*inputs.values()), found.module(*inputs.values())))
    return sequence(found)


def add(graph: Graph, x: Node, y: Node) -> Node:
    return graph.call_function(torch.ops.aten.add.Tensor, (x, y))


def times(value: Any) -> Any:
    return lambda graph, y, *_: graph.call_function(torch.ops.aten.mul.Tensor, (y, value))


def plus(name: str) -> Any:
    return lambda graph, y, known, _: add(graph, y, known[name])


def looked_up(name: str) -> Any:
    def block(graph: Graph, y: Node, known: dict[str, Node], _: object) -> Node:
        table = f"cos of {name}"
        if table not in known:
            known[table] = graph.call_function(torch.ops.aten.cos.default, (known[name],))
        return add(graph, y, known[table])

    return block


def with_weight(value: Tensor) -> Any:
    def block(graph: Graph, y: Node, _: object, root: dict[str, Tensor]) -> Node:
        name = f"v{len(root)}"
        root[name] = value.clone() if value.is_contiguous() else value
        return add(graph, y, graph.get_attr(name))

    return block


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (times(1), times(1.0)),
        (times(1), times(True)),
        (times(0.0), times(-0.0)),
        (plus("p"), plus("q")),
        (looked_up("p"), looked_up("q")),
        (with_weight(torch.ones(4)), with_weight(torch.ones(1, 4))),
        (with_weight(torch.ones(4)), with_weight(torch.ones(4, dtype=torch.int64))),
        (with_weight(torch.ones(4)), with_weight(torch.ones(8)[::2])),
    ],
)
def test_what_is_almost_the_same_is_not_merged(first: Any, second: Any) -> None:
    assert blocks_of([first, first, first]) == list("abbb")
    assert blocks_of([first, first, second, first, second, second]) == list("abbcbcc")


def test_a_value_that_skips_layers_leaves_less_to_cut() -> None:
    def remember(graph: Graph, y: Node, known: dict[str, Node], _: object) -> Node:
        known["early"] = y
        return y

    def recall(graph: Graph, y: Node, known: dict[str, Node], _: object) -> Node:
        return add(graph, y, known["early"])

    assert blocks_of([None, None, remember, None, None, recall, None, None]) == list("abbcbb")
    assert blocks_of([remember, None, None, recall]) == []


def test_a_shared_weight_is_given_to_each_call() -> None:
    graph, inputs = chain([None] * 4, x=torch.randn(3, 4))
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            node.target = "w0"
    graph.recompile()
    found = outlined(graph, inputs)
    assert sequence(found) == list("abbbb")
    assert torch.equal(graph(inputs["x"])[0], found.module(inputs["x"])[0])


def test_short_repetitions_are_not_worth_a_piece() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    for _ in range(12):
        x = graph.call_function(torch.ops.aten.sin.default, (x,))
    graph.output((x,))
    found = outlined(GraphModule({}, graph), {"x": torch.randn(3)})
    assert not found.pieces


def test_a_computed_size_does_not_cross_a_cut() -> None:
    """A piece could not tell 2 times 3 rows from another quantity that happens to be 6."""

    x = torch.randn(3, 4)
    graph, inputs = chain([None] * 4, x=x)
    nodes = iter(graph.graph.nodes)
    first = next(node for node in nodes if node.target is torch.ops.aten.mul.Tensor)
    with graph.graph.inserting_after(first):
        doubled = graph.graph.call_function(torch.ops.aten.cat.default, ([first, first],))
    first.replace_all_uses_with(doubled, lambda user: user is not doubled)
    graph.recompile()
    mode = FakeTensorMode(shape_env=ShapeEnv())
    source = ConstantSource("x")
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DUCK, DimDynamic.STATIC])
    found = outline(graph, {"x": mode.from_tensor(x, symbolic_context=context, source=source)})
    assert found.module is graph
    assert "computed size" in str(found.reason)
    assert sequence(outlined(graph, inputs)) == list("abbbb")


@pytest.mark.parametrize("seen", ["before", "through a view", "as a result"])
def test_an_input_that_is_changed_and_seen_elsewhere_prevents_cuts(seen: str) -> None:
    graph = lowered(*llada(n_layers=4))
    nodes = graph.graph.nodes
    keys = next(node for node in nodes if node.target == "keys_2")
    add = next(node for node in nodes if node.target is torch.ops.aten.add.Tensor)
    with graph.graph.inserting_before(add):
        see = keys
        if seen == "before":
            see = graph.graph.call_function(torch.ops.aten.sum.default, (keys,))
        elif seen == "through a view":
            see = graph.graph.call_function(torch.ops.aten.select.int, (keys, 0, 0))
    output = graph.graph.output_node()
    output.args = ((*output.args[0], see),)
    graph.recompile()
    found = outlined(graph)
    assert found.module is graph
    assert "keys_2" in str(found.reason) or "sum" in str(found.reason)
