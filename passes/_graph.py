"""Small questions about graph nodes, shared by the passes."""

from __future__ import annotations

import contextlib
import operator
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

if TYPE_CHECKING:
    from collections.abc import Iterator

aten = torch.ops.aten

# What a pass may say of a node beside torch.export's own entries; `replace` keeps all of it.
_KEPT = ("val", "stack_trace", "nn_module_stack", "sequence_axis", "batch_axis")


def is_call(node: object, *targets: Any) -> TypeGuard[Node]:
    """Whether `node` calls one of `targets`."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def calls(module: GraphModule, *targets: Any) -> list[Node]:
    """Every node that calls one of `targets`, in order."""
    return [node for node in module.graph.nodes if is_call(node, *targets)]


def argument(node: Node, name: str) -> Any:
    """An argument of an operator call by name, given or default."""
    assert isinstance(node.target, torch._ops.OpOverload)
    for index, parameter in enumerate(node.target._schema.arguments):
        if parameter.name == name:
            if index < len(node.args):
                return node.args[index]
            if name in node.kwargs:
                return node.kwargs[name]
            return parameter.default_value if parameter.has_default_value() else None
    raise KeyError(f"{node.target} has no argument `{name}`")


def operands(node: Node) -> Iterator[tuple[Any, Any]]:
    """The two operands of a commutative operator in both orders."""
    first, second = node.args[0], node.args[1]
    yield first, second
    yield second, first


def only_user(node: Node) -> Node | None:
    """The one node that reads `node`, or None if there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def alike(one: object, other: object, depth: int = 4) -> bool:
    """Whether two arguments are the same, or the same calls of the same arguments.

    torch.export writes `x[..., :n]` twice where the model's code does.
    """
    if one is other:
        return True
    if isinstance(one, Node) and isinstance(other, Node):
        same = one.op == other.op == "call_function" and one.target == other.target
        given = (one.args, one.kwargs), (other.args, other.kwargs)
        return same and depth > 0 and alike(*given, depth - 1)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(alike(*pair, depth) for pair in pairs)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k], depth) for k in one)
    return type(one) is type(other) and bool(one == other)


def value_of(node: Any) -> Any:
    """The fake value that torch.export recorded for a node; None for what is no node."""
    return node.meta.get("val") if isinstance(node, Node) else None


def expression(size: Any) -> Any:
    """A size as something that compares by value: a symbolic expression or a number."""
    return size.node.expr if isinstance(size, torch.SymInt | torch.SymFloat) else size


def dtype_of(node: Any) -> torch.dtype | None:
    """The dtype of the tensor that a node gives, or None."""
    value = value_of(node)
    return value.dtype if isinstance(value, torch.Tensor) else None


def casts_to(node: object) -> torch.dtype | None:
    """The dtype that `node` converts its input to, or None if it is no conversion."""
    found: Any = None
    if is_call(node, aten.to.dtype):
        found = node.args[1]
    elif is_call(node, aten._to_copy.default, aten.to.dtype_layout):
        found = node.kwargs.get("dtype")
    elif is_call(node, aten.type_as.default):
        found = dtype_of(node.args[1])
    return found if isinstance(found, torch.dtype) else None


def replace(old: Node, new: Node) -> None:
    """Put `new` in place of `old`, with its recorded value and source line."""
    for key in _KEPT:
        if key in old.meta:
            new.meta.setdefault(key, old.meta[key])
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def get_tensor(module: GraphModule, node: Node) -> torch.Tensor:
    """The parameter or buffer that a `get_attr` node reads."""
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    assert isinstance(found, torch.Tensor)
    return found


def add_buffer(module: GraphModule, name: str, tensor: torch.Tensor, before: Node) -> Node:
    """Register a constant under a free name and read it in front of `before`."""
    free, index = name, 0
    while hasattr(module, free):
        index += 1
        free = f"{name}_{index}"
    module.register_buffer(free, tensor)
    with module.graph.inserting_before(before):
        return module.graph.get_attr(free)


def add_placeholder(module: GraphModule, name: str) -> Node:
    """An input after all existing ones."""
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-1]
    with module.graph.inserting_after(last):
        return module.graph.placeholder(name)


def placeholder(module: GraphModule, name: str) -> Node:
    """The input called `name`."""
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.target == name:
            return cast("Node", node)
    raise KeyError(name)


def output_of(module: GraphModule) -> Node:
    """The node that returns."""
    return cast("Node", next(iter(reversed(module.graph.nodes))))


def first_after_placeholders(module: GraphModule) -> Node:
    """The node in front of which new code may read any input."""
    found = output_of(module)
    for node in reversed(module.graph.nodes):
        if node.op == "placeholder":
            break
        found = node
    return found


def item(node: Node, index: int) -> Node:
    """`node[index]`, in front of whatever inserts next."""
    return node.graph.call_function(operator.getitem, (node, index))


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the weights of `module` are; the CPU if it has none."""
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def derived(like: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
    """A new call where the graph inserts next, with its value and the source line of `like`."""
    node = like.graph.call_function(target, args, kwargs)
    given, options = map_arg((args, kwargs), value_of)
    mode = detect_fake_mode(list(_leaves(given))) or contextlib.nullcontext()
    # Composite operators see sizes that are symbols only through Python's dispatcher (torch 2.11).
    with mode, torch.no_grad(), enable_python_dispatcher():
        node.meta["val"] = target(*given, **options)
    for key in ("stack_trace", "nn_module_stack"):
        if key in like.meta:
            node.meta[key] = like.meta[key]
    return node


def _leaves(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _leaves(value)
        else:
            yield value


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \S+\n\s*(?P<code>[^\n]*)')
_TORCH = str(Path(torch.__file__).parent)


def where(node: Node) -> str:
    """The node and the line of the user's code that it came from, for messages."""
    frames = list(_FRAME.finditer(str(node.meta.get("stack_trace", ""))))
    own = [frame for frame in frames if not frame["file"].startswith(_TORCH)]
    named = f"`{node.name}` ({node.target})"
    if not own:
        return named
    innermost = own[-1]
    place = f"{Path(innermost['file']).name}:{innermost['line']}"
    return f"{named} at {place} `{innermost['code'].strip()}`"
