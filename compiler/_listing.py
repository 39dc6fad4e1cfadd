"""A graph as rows to read: by layer, repeated layers once, each row with its source lines."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from torch.fx import GraphModule, Node

    from dllmc.compiler._provenance import Provenance, Source

BEGINNING, END = "before the layers", "after the layers"
_LAYER = re.compile(r"(?:^|\.)(?P<layer>(?:\w+\.)*?\w+\.\d+)(?=\.|$)")
_ATTENTION = re.compile("scaled_dot_product|softmax|attention")
# Beside our own: what the lowering has an implementation for.
_CANONICAL = (torch.ops.aten.linear.default,)


@dataclass(frozen=True, slots=True)
class Row:
    """A node.

    Attributes:
        name: Of the node.
        operator: What it calls, without its overload: `aten.add`, `dllmc.rms_norm`.
        inputs: Names of the nodes that it reads, parameters left out.
        shape: Of its result, such as `f32[B, T, 32]`; empty for no tensor.
        sources: Lines of the model's code.
        captured: Names of the captured nodes that it stands for.
        is_canonical: Whether it is one of the operators that the compiler knows by meaning.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    shape: str
    sources: tuple[Source, ...]
    captured: tuple[str, ...]
    is_canonical: bool


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of one layer, or of what stands before or after all layers.

    Attributes:
        title: Path of the layer's module in the model, or where the rows stand.
        rows: In running order.
        alike: Titles of the layers that follow and have the same rows up to names.
    """

    title: str
    rows: tuple[Row, ...]
    alike: tuple[str, ...] = ()


def operator_name(target: Any) -> str:
    """`aten.add` for `aten.add.Tensor`; `operator.mul` for a function of Python's."""
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._opname}"
    return f"operator.{getattr(target, '__name__', target)}"


def sections(module: GraphModule, provenance: Provenance) -> list[Section]:
    """The calls of a graph by layer, layers that repeat the one before folded."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function"]
    titles, sizes = _titles(nodes, provenance), _sizes(module)
    groups: dict[str, list[Row]] = {}
    for node in nodes:
        groups.setdefault(titles[node], []).append(_row(node, provenance, sizes))
    return _folded([Section(title, tuple(rows)) for title, rows in groups.items()])


def generic(found: Iterable[Section]) -> dict[str, list[Row]]:
    """Rows that no pass gave a meaning, by operator, the most frequent first."""
    rows: dict[str, list[Row]] = {}
    for section in found:
        for row in section.rows:
            if not row.is_canonical:
                # A folded layer stands for all that are alike.
                rows.setdefault(row.operator, []).extend([row] * (1 + len(section.alike)))
    return dict(sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])))


def _row(node: Node, provenance: Provenance, sizes: Mapping[str, str]) -> Row:
    is_ours = isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "dllmc"
    return Row(
        name=node.name,
        operator=operator_name(node.target),
        inputs=tuple(n.name for n in node.all_input_nodes if n.op != "get_attr"),
        shape=_shape(node.meta.get("val"), sizes),
        sources=provenance.sources(node),
        captured=tuple(origin.name for origin in provenance.captured(node)),
        is_canonical=is_ours or node.target in _CANONICAL,
    )


def _sizes(module: GraphModule) -> dict[str, str]:
    """What torch.export calls batch and length, by its names for them."""
    tokens = next(node for node in module.graph.nodes if node.op == "placeholder")
    value = tokens.meta.get("val")
    shape = value.shape if isinstance(value, torch.Tensor) else ()
    return dict(zip(map(str, shape), "BT", strict=False))


def _shape(value: object, sizes: Mapping[str, str]) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, (_shape(item, sizes) for item in value)))
    if not isinstance(value, torch.Tensor):
        return ""
    kind = re.sub(r"[a-z]+(?=\d)", lambda m: m[0][0], str(value.dtype).removeprefix("torch."))
    text = re.sub(r"\w+", lambda m: sizes.get(m[0], m[0]), ", ".join(map(str, value.shape)))
    return f"{kind}[{text}]"


def _titles(nodes: Sequence[Node], provenance: Provenance) -> dict[Node, str]:
    """The section of each node.

    A layer is an item of a list of modules in which there is attention. Where a model has no such
    list, a section goes from one attention call to the next. Nodes of no layer go with what they
    stand between.
    """
    layers = {node: _layer_of(node, provenance) for node in nodes}
    attending = [node for node in nodes if _ATTENTION.search(operator_name(node.target))]
    lists = {_list_of(layers[node]) for node in attending} - {""}
    if not lists:
        return _titles_by_attention(nodes, set(attending))
    layers = {node: layer for node, layer in layers.items() if _list_of(layer) in lists}
    last = next(node for node in reversed(nodes) if node in layers)
    titles: dict[Node, str] = {}
    current, is_over = BEGINNING, False
    for node in nodes:
        current = layers.get(node) or (END if is_over else current)
        titles[node] = current
        is_over = is_over or node is last
    return titles


def _titles_by_attention(nodes: Sequence[Node], attending: Collection[Node]) -> dict[Node, str]:
    titles, count = {}, 0
    for node in nodes:
        count += node in attending
        titles[node] = f"from attention {count}" if count else BEGINNING
    return titles


def _layer_of(node: Node, provenance: Provenance) -> str:
    """The outermost item of a list of modules that a node was called in, or nothing."""
    for origin in (*reversed(provenance.captured(node)), node):
        for path, *_ in reversed(list(origin.meta.get("nn_module_stack", {}).values())):
            if found := _LAYER.search(str(path)):
                return found["layer"]
    return ""


def _list_of(layer: str) -> str:
    return layer.rpartition(".")[0]


def _folded(found: Iterable[Section]) -> list[Section]:
    kept: list[Section] = []
    for section in found:
        if kept and _form(section) == _form(kept[-1]):
            kept[-1] = replace(kept[-1], alike=(*kept[-1].alike, section.title))
        else:
            kept.append(section)
    return kept


def _form(section: Section) -> list[tuple[Any, ...]]:
    """What a section does, whatever its nodes are called."""
    place = {row.name: index for index, row in enumerate(section.rows)}
    return [
        (row.operator, row.shape, *(place.get(name) for name in row.inputs))
        for row in section.rows
    ]
