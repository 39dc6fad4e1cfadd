"""Put the bodies of higher-order wrappers in place of their calls.

torch.export writes `with torch.autocast(...)` and `with torch.no_grad()` as calls of a wrapper
over a graph of its own. Passes look for patterns in one flat graph.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule, Node

from dllmc.compiler._source import place_of_node
from dllmc.spec import CaptureError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The body's place among the arguments; behind it stand its inputs, after so many others.
_BODIES = {
    "wrap_with_autocast": (4, 0),
    "wrap_with_set_grad_enabled": (1, 0),
    "wrap": (0, 0),
    "wrap_activation_checkpoint": (0, 0),
    "tag_activation_checkpoint": (0, 0),
    "invoke_subgraph": (0, 1),
}
_REMEDIES = {
    "cond": "a branch on what the tokens are cannot be compiled; compute both sides and `where`",
    "while_loop": "write a loop whose length is known",
    "flex_attention": "call torch.nn.functional.scaled_dot_product_attention",
}


def inline_wrappers(module: GraphModule) -> None:
    """Inline, in place, every wrapper that does not change what its body computes.

    Raises:
        CaptureError: A wrapper changes what its body computes, such as autocast to another dtype,
            or is not known.
    """
    while sites := [node for node in module.graph.nodes if _is_wrapper(node)]:
        for site in sites:
            _inline(module, site)
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.graph.lint()
    module.recompile()


def _is_wrapper(node: Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator)


def _inline(module: GraphModule, site: Node) -> None:
    name = str(getattr(site.target, "__name__", site.target))
    if name not in _BODIES:
        remedy = _REMEDIES.get(name, "write it with plain operators")
        raise CaptureError(f"`{name}`{place_of_node(site)} has no plain form; {remedy}")
    place, skipped = _BODIES[name]
    body = _body(module, site.args[place])
    if name == "wrap_with_autocast":
        _check_autocast(site, body)
    results = _copy_body(module, body, site, site.args[place + 1 + skipped :])
    if not isinstance(results, list | tuple):
        site.replace_all_uses_with(results)
    for user in list(site.users):
        if user.target is not operator.getitem:
            raise CaptureError(f"`{name}`{place_of_node(site)} is read as a whole")
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(site)


def _body(module: GraphModule, node: Any) -> GraphModule:
    assert isinstance(node, Node)
    found = module.get_submodule(str(node.target))
    assert isinstance(found, GraphModule)
    return found


def _copy_body(module: GraphModule, body: GraphModule, site: Node, inputs: Sequence[Any]) -> Any:
    """What `body` gives for `inputs`, computed in front of `site`."""
    known: dict[Node, Any] = {}
    given = iter(inputs)
    for node in body.graph.nodes:
        if node.op == "output":
            return torch.fx.node.map_arg(node.args[0], known.__getitem__)
        if node.op == "placeholder":
            known[node] = next(given)
            continue
        with module.graph.inserting_before(site):
            if node.op == "get_attr":
                known[node] = _copy_attribute(module, body, node)
            else:
                known[node] = module.graph.node_copy(node, known.__getitem__)
    raise AssertionError("a graph without an output")


def _copy_attribute(module: GraphModule, body: GraphModule, node: Node) -> Node:
    """Read in `module` what `node` reads in `body`; a tensor or the body of another wrapper."""
    value = operator.attrgetter(str(node.target))(body)
    name, index = "inlined", 0
    while hasattr(module, f"{name}_{index}"):
        index += 1
    free = f"{name}_{index}"
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        module.register_buffer(free, value, persistent=True)
    else:
        setattr(module, free, value)
    copied = module.graph.get_attr(free)
    copied.meta.update(node.meta)
    return copied


def _check_autocast(site: Node, body: GraphModule) -> None:
    """Refuse a context in which operators convert their inputs; off, it does nothing."""
    device, dtype, enabled = site.args[:3]
    if not enabled or _device_of(site) not in (None, device):
        return
    place = next(filter(None, map(place_of_node, body.graph.nodes)), "")
    raise CaptureError(
        f"autocast to `{dtype}`{place} converts inside operators, where no pass can "
        "see it; convert the module with `.to(dtype)` and switch autocast off"
    )


def _device_of(site: Node) -> str | None:
    for source in site.all_input_nodes:
        value = source.meta.get("val")
        if isinstance(value, torch.Tensor):
            return value.device.type
    return None
