"""Steps without side effects: caches go in and come out, for runtimes that know no mutation.

Their exporters drop what is written in place without a word, and the decoder that is left reads
caches of zeros.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.fx import GraphModule, Node

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMESPACE = "dllmc"


def functional(
    module: GraphModule, implementations: Mapping[str, str] | None = None
) -> tuple[GraphModule, list[str]]:
    """The step that returns its caches after what it returns.

    Args:
        module: A step, whose caches are changed in place. It is left as it is.
        implementations: Of canonical operators, by name, that the runtime does best; others are
            taken in plain torch, whatever they were lowered to.

    Returns:
        The step, and the caches in the order in which they follow the results.
    """
    found = GraphModule(module, copy.deepcopy(module.graph))
    graph = found.graph
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    caches = [node for node in inputs if "cache_shape" in node.meta]
    with graph.inserting_after(inputs[-1]):
        copies = [graph.call_function(torch.ops.aten.clone.default, (node,)) for node in caches]
    for node, its_copy in zip(caches, copies, strict=True):
        node.replace_all_uses_with(its_copy, delete_user_cb=_other_than(its_copy))
    output = graph.output_node()
    output.args = ((*cast("tuple[Node, ...]", output.args[0]), *copies),)
    _lower(found, implementations or {})
    graph.lint()
    found.recompile()
    found.eval()
    return found, [str(node.target) for node in caches]


def _other_than(node: Node) -> Any:
    return lambda user: user is not node


def _lower(module: GraphModule, implementations: Mapping[str, str]) -> None:
    for node in module.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target.namespace == _NAMESPACE and node.target._overloadname != "default":
            name = node.target._opname
            packet = getattr(torch.ops.dllmc, name)
            node.target = getattr(packet, implementations.get(name, "torch"))
