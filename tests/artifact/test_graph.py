from __future__ import annotations

import copy
import functools
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs.passing import operators, ready_for
from graphs.toys import llada

from dllmc.artifact import graph_from_json, graph_to_json, weights_of
from dllmc.passes.lower_operators import LowerOperators
from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from torch.fx import GraphModule


@functools.cache
def lowered() -> GraphModule:
    graph, context = ready_for("lower_operators", *llada())
    LowerOperators().run(graph, context)
    return graph


def written() -> dict[str, Any]:
    return copy.deepcopy(graph_to_json(lowered()))


def test_a_graph_comes_back_as_it_was() -> None:
    text = json.dumps(written())
    read = graph_from_json(json.loads(text), weights_of(lowered()))
    assert operators(read) == operators(lowered())
    old, new = (list(graph.graph.nodes) for graph in (lowered(), read))
    assert [(n.op, n.meta.get("cache_shape")) for n in old] == [
        (n.op, n.meta.get("cache_shape")) for n in new
    ]
    assert [len(n.args) for n in old] == [len(n.args) for n in new]


def test_weights_are_by_name_and_not_copied() -> None:
    weights = weights_of(lowered(), lowered())
    assert set(weights) == {str(n.target) for n in lowered().graph.nodes if n.op == "get_attr"}
    read = graph_from_json(written(), weights)
    own = {tensor.data_ptr() for tensor in weights.values()}
    assert {buffer.data_ptr() for buffer in read.buffers()} == own


def first(data: dict[str, Any], op: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in data["nodes"] if entry["op"] == op)
    return found


@pytest.mark.parametrize(
    "target",
    [
        "aten.no_such_operator.default",
        "aten.add.NoSuchOverload",
        "dllmc.linear.cuda_9000",
        "prims.add.default",
        "torch.load",
        "builtins.eval",
        "os.system",
        "operator.attrgetter",
        "operator.methodcaller",
        "aten.from_file.default",
        "aten.__class__.mro",
        "",
    ],
)
def test_a_foreign_operator_is_refused(target: str) -> None:
    data = written()
    first(data, "call_function")["target"] = target
    with pytest.raises(ArtifactError, match=f"uses the operator `{target}`"):
        graph_from_json(data, weights_of(lowered()))


@pytest.mark.parametrize("op", ["call_method", "call_module", "eval"])
def test_other_kinds_of_nodes_are_refused(op: str) -> None:
    data = written()
    first(data, "call_function")["op"] = op
    with pytest.raises(ArtifactError, match=f"unknown kind `{op}`"):
        graph_from_json(data, weights_of(lowered()))


def broken(how: str) -> Any:
    data = written()
    call = first(data, "call_function")
    if how == "unknown node":
        call["args"][0] = {"node": "nobody"}
    elif how == "unknown weight":
        first(data, "get_attr")["target"] = "nothing.weight"
    elif how == "no target":
        del call["target"]
    elif how == "not a dtype":
        call["args"].append({"dtype": "load"})
    elif how == "not a number":
        call["args"].append({"float": "import os"})
    elif how == "odd cache":
        first(data, "placeholder")["cache_shape"] = ["a", "b", "c"]
    elif how == "no nodes":
        data = {}
    elif how == "a list":
        data = []
    return data


@pytest.mark.parametrize(
    "how",
    [
        "unknown node",
        "unknown weight",
        "no target",
        "not a dtype",
        "not a number",
        "odd cache",
        "no nodes",
        "a list",
    ],
)
def test_damage_is_refused(how: str) -> None:
    with pytest.raises(ArtifactError):
        graph_from_json(broken(how), weights_of(lowered()))


def test_arguments_of_every_kind_come_back() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(torch.ops.aten.clamp.default, (x, -float("inf"), 1.5))
    z = graph.call_function(
        torch.ops.aten.sum.dim_IntList, (y, [0, -1], True), {"dtype": torch.float64}
    )
    graph.output((z, None))
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    read = graph_from_json(json.loads(json.dumps(graph_to_json(module))), {})
    given = torch.tensor([[-3.0, 1.0], [2.0, 0.5]])
    old, new = module(given)[0], read(given)[0]
    assert new.dtype == torch.float64
    assert torch.equal(old, new)


@pytest.mark.parametrize("value", [torch.device("cpu"), 1j, torch.strided], ids=str)
def test_an_argument_that_cannot_be_written_is_refused(value: Any) -> None:
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.zeros.default, ([2],), {"device": value}))
    with pytest.raises(ArtifactError, match="cannot be written into an artifact"):
        graph_to_json(torch.fx.GraphModule(torch.nn.Module(), graph))


def test_an_operator_that_cannot_be_written_is_refused() -> None:
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torch.sin, (graph.placeholder("x"),)))
    with pytest.raises(ArtifactError, match="cannot be written into an artifact"):
        graph_to_json(torch.fx.GraphModule(torch.nn.Module(), graph))
