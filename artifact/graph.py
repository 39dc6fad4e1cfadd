"""Graphs as JSON, so that loading one runs no code from the file.

Only operators of a few namespaces can be named, arguments are plain values, and weights are
referred to by name. `torch.export`'s own archive is not used: it falls back to pickle.
"""

from __future__ import annotations

import hashlib
import json
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Graph, GraphModule, Node

from dllmc.spec import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMESPACES = ("aten", "dllmc")
# Reads and writes files; no graph of a model has it.
_FORBIDDEN = ("aten.from_file",)
_PYTHON = {
    name: getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "mod", "neg")
}


def graph_to_json(module: GraphModule) -> dict[str, Any]:
    """The graph of `module` as plain JSON values; weights by the names of `weights_of`."""
    nodes = []
    for node in module.graph.nodes:
        entry: dict[str, Any] = {"name": node.name, "op": node.op}
        if node.op == "call_function":
            entry["target"] = _target_name(node.target)
            entry["args"] = [_encode(arg) for arg in node.args]
            if node.kwargs:
                entry["kwargs"] = {key: _encode(value) for key, value in node.kwargs.items()}
        elif node.op == "output":
            entry["args"] = [_encode(arg) for arg in node.args]
        else:
            entry["target"] = str(node.target)
        if "cache_shape" in node.meta:
            entry["cache_shape"] = list(node.meta["cache_shape"])
        nodes.append(entry)
    return {"nodes": nodes}


def graph_digest(modules: Mapping[str, GraphModule]) -> str:
    """SHA-256 of what graphs compute, whatever their nodes are called."""
    found = []
    for name, module in sorted(modules.items()):
        nodes = graph_to_json(module)["nodes"]
        number = {node["name"]: index for index, node in enumerate(nodes)}
        found.append([name, [_renamed({**node, "name": ""}, number) for node in nodes]])
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _renamed(value: Any, number: Mapping[str, int]) -> Any:
    if isinstance(value, list):
        return [_renamed(item, number) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"node"}:
        return {"node": number[value["node"]]}
    return {key: _renamed(item, number) for key, item in value.items()}


def graph_from_json(data: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> GraphModule:
    """Build a graph module from `graph_to_json`'s values and weights by name.

    Raises:
        ArtifactError: The data names an operator, a node or a weight that does not exist.
    """
    graph, known = Graph(), dict[str, Node]()
    root = torch.nn.Module()
    try:
        for entry in data["nodes"]:
            known[entry["name"]] = _add_node(graph, entry, known, root, weights)
        graph.lint()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise ArtifactError(
            f"a graph of the artifact is damaged at {error}; compile again"
        ) from None
    return GraphModule(root, graph)


def _add_node(
    graph: Graph,
    entry: Mapping[str, Any],
    known: Mapping[str, Node],
    root: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
) -> Node:
    op = entry["op"]
    if op == "placeholder":
        node = graph.placeholder(entry["target"])
    elif op == "get_attr":
        attribute = entry["target"].replace(".", "__")
        root.register_buffer(attribute, weights[entry["target"]])
        node = graph.get_attr(attribute)
    elif op == "call_function":
        args = tuple(_decode(arg, known) for arg in entry["args"])
        kwargs = {key: _decode(value, known) for key, value in entry.get("kwargs", {}).items()}
        node = graph.call_function(_target(entry["target"]), args, kwargs)
    elif op == "output":
        node = graph.output(_decode(entry["args"][0], known))
    else:
        raise ArtifactError(f"a graph node has the unknown kind `{op}`")
    if "cache_shape" in entry:
        groups, width = entry["cache_shape"]
        node.meta["cache_shape"] = (int(groups), int(width))
    return node


def weights_of(*modules: GraphModule) -> dict[str, torch.Tensor]:
    """Every tensor that the graphs read, once, by name."""
    found: dict[str, torch.Tensor] = {}
    for module in modules:
        for node in module.graph.nodes:
            if node.op == "get_attr":
                value: Any = module
                for part in str(node.target).split("."):
                    value = getattr(value, part)
                found[str(node.target)] = value.detach()
    return found


def _target_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload) and target.namespace in _NAMESPACES:
        return str(target)
    for name, function in _PYTHON.items():
        if target is function:
            return f"operator.{name}"
    raise ArtifactError(f"`{target}` cannot be written into an artifact")


def _target(name: str) -> Any:
    namespace, _, rest = name.partition(".")
    if namespace == "operator" and rest in _PYTHON:
        return _PYTHON[rest]
    packet, _, overload = rest.partition(".")
    found = None
    if namespace in _NAMESPACES and f"{namespace}.{packet}" not in _FORBIDDEN:
        found = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload):
        raise ArtifactError(
            f"the artifact uses the operator `{name}`, which this version does not have; compile "
            "again with the installed version"
        )
    return found


def _encode(value: Any) -> Any:
    if isinstance(value, Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) != float("inf") else {"float": str(value)}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    raise ArtifactError(f"an argument {value!r} cannot be written into an artifact")


def _decode(value: Any, known: Mapping[str, Node]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item, known) for item in value)
    if not isinstance(value, dict):
        return value
    if "node" in value:
        return known[value["node"]]
    if "dtype" in value:
        dtype = getattr(torch, value["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ArtifactError(f"`{value['dtype']}` is not a dtype")
        return dtype
    return float(value["float"])
