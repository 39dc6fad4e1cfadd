"""Compile a step so that layers which are the same are compiled once."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from dllmc.artifact.outline import outline
from dllmc.runtime.programs import _compile_graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from torch.fx import GraphModule, Node

    from dllmc.artifact.outline import Outline
    from dllmc.runtime.programs._compile_graph import Condition

    Program = Callable[..., Any]


def compile_step(
    graph: GraphModule,
    inputs: Mapping[str, Tensor],
    dynamic: Mapping[str, Sequence[int]],
    known: dict[str, tuple[Program, list[Condition]]],
) -> tuple[Program, list[Condition]]:
    """Compile every repeated layer of `graph` once, or the whole where nothing is repeated.

    Args:
        graph: A step; its weights are used in place.
        inputs: As in `compile_graph`.
        dynamic: As in `compile_graph`.
        known: Pieces that have been compiled, by what they are; new ones are added. Steps that
            differ in their statistics have all but the last piece in common.

    Returns:
        The program, taking the graph's inputs in order, and the conditions on sizes under which
        it holds; none if it holds for all.
    """
    names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
    used = {name: inputs[name] for name in names}
    fakes = _compile_graph.fake_inputs(used, dynamic)
    outlined = outline(graph, fakes)
    pieces = outlined.pieces
    if not pieces:
        return _compile_graph.compile_graph(graph, used, dynamic)
    # Sizes that fake tensors were held to count as well: pieces are compiled for those.
    compiled, conditions = dict[str, Any](), _compile_graph.conditions_of(fakes)
    for call in outlined.module.graph.nodes:
        name = str(call.target)
        if call.op != "call_module" or name in compiled:
            continue
        examples, axes = examples_of(pieces[name], call, outlined.module, used)
        what = identity_of(pieces[name], examples, axes)
        if what not in known:
            known[what] = _compile_graph.compile_piece(pieces[name], examples, axes)
        compiled[name], found = known[what]
        conditions += found
    return _link(outlined, compiled), conditions


def identity_of(
    piece: GraphModule, examples: Mapping[str, Tensor], axes: Mapping[str, tuple[int, ...]]
) -> str:
    """What tells pieces apart that are compiled for such examples."""
    kinds = [
        (tuple(example.shape), example.stride(), example.dtype, example.device, axes[name])
        for name, example in examples.items()
    ]
    return f"{piece.graph}\n{kinds}"


def examples_of(
    piece: GraphModule, call: Node, module: GraphModule, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """What a call gives to its piece, and which axes are dynamic.

    Results of other pieces are not computed: memory of their size will do.
    """
    examples: dict[str, Tensor] = {}
    axes: dict[str, tuple[int, ...]] = {}
    takes = [node for node in piece.graph.nodes if node.op == "placeholder"]
    given: Any
    for take, given in zip(takes, call.args, strict=True):
        fake, name = take.meta["val"], str(take.target)
        if given.op == "placeholder":
            tensor = inputs[str(given.target)]
        elif given.op == "get_attr":
            tensor = _weight(module, given)
        else:
            sizes = [_example(size) for size in fake.shape]
            strides = [_example(stride) for stride in fake.stride()]
            tensor = torch.empty_strided(sizes, strides, dtype=fake.dtype, device=fake.device)
        # One tensor under two names would be taken for one input.
        known = any(tensor is other for other in examples.values())
        examples[name] = tensor.detach() if known else tensor
        axes[name] = tuple(i for i, size in enumerate(fake.shape) if not isinstance(size, int))
    return examples, axes


def _example(size: int | torch.SymInt) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def _weight(module: GraphModule, node: Node) -> Tensor:
    weight: Tensor = operator.attrgetter(str(node.target))(module)
    return weight


@dataclass
class _Call:
    """A call of a piece: weights in their places, and where all else comes from and goes to."""

    program: Program
    weights: list[Tensor | None]
    takes: list[tuple[int, int]] = field(default_factory=list)
    gives: list[tuple[int, int]] = field(default_factory=list)


def _link(outlined: Outline, compiled: Mapping[str, Program]) -> Program:
    """A function that calls the compiled pieces one after the other."""
    nodes = list(outlined.module.graph.nodes)
    places = places_of(nodes)
    calls: dict[Node, _Call] = {}
    for node in nodes:
        if node.op == "call_module":
            weights = [
                _weight(outlined.module, given) if given.op == "get_attr" else None
                for given in node.args
            ]
            call = _Call(compiled[str(node.target)], weights)
            call.takes = [(i, places[g]) for i, g in enumerate(node.args) if g in places]
            calls[node] = call
        elif node.target is operator.getitem:
            calls[node.args[0]].gives.append((node.args[1], places[node]))
    results = [places[node] for node in nodes[-1].args[0]]
    blank = [None] * (max(places.values()) + 1 - sum(n.op == "placeholder" for n in nodes))
    steps = [(c.program, c.weights, c.takes, c.gives) for c in calls.values()]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        values: list[Any] = [*inputs, *blank]
        for program, weights, takes, gives in steps:
            arguments = weights.copy()
            for argument, place in takes:
                arguments[argument] = values[place]
            made = program(arguments)
            for number, place in gives:
                values[place] = made[number]
        return tuple(values[place] for place in results)

    return run


def places_of(nodes: Sequence[Node]) -> dict[Node, int]:
    """A place for every input and result; places are used again, so that memory is freed."""
    order = {node: index for index, node in enumerate(nodes)}
    places: dict[Node, int] = {}
    for node in nodes:
        if node.op == "placeholder":
            places[node] = len(places)
    free, count = list[int](), len(places)
    busy: list[tuple[int, int]] = []
    for node in nodes:
        if node.target is not operator.getitem:
            continue
        (call,) = (order[source] for source in node.all_input_nodes)
        done = [place for last, place in busy if last <= call]
        busy = [(last, place) for last, place in busy if last > call]
        free += done
        if not free:
            free.append(count)
            count += 1
        places[node] = free.pop()
        busy.append((max((order[user] for user in node.users), default=call), places[node]))
    return places
