"""Sequence-axis analysis: which axis of each tensor runs over positions, and proof that every
operation outside attention works on each position alone.

The analysis walks the graph with a rule per operator. A tensor is *token-dependent* if it follows
from the tokens' values; its sequence axis is then known. Tensors that follow from the length
alone are tables. An operator without a rule is refused by name.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._graph import aten, is_call, value_of, where
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.fx import Graph


@dataclass(slots=True)
class SequenceAxes:
    """What the analysis found.

    Attributes:
        length: The symbol of the sequence length, as an expression.
        axis: Sequence axis of every token-dependent tensor (of its parts, for lists).
        lengths: Nodes whose value is an integer that follows from the length.
        tables: Token-independent tensors with a sequence axis, and that axis.
        meetings: Token-dependent nodes that consume a table, and the tables.
    """

    length: Any
    axis: dict[Node, int] = field(default_factory=dict)
    lengths: set[Node] = field(default_factory=set)
    tables: dict[Node, int] = field(default_factory=dict)
    meetings: list[tuple[Node, Node]] = field(default_factory=list)


def analyse(graph: Graph, tokens: Node) -> SequenceAxes:
    """Prove that the graph works on each position alone outside attention.

    Args:
        graph: With the values that torch.export recorded, canonicalised.
        tokens: The input, `[B, S]`.

    Raises:
        NotPositionWiseError: An operation mixes positions, has no rule, or uses the length as a
            number; the message names the node and its source line.
    """
    found = SequenceAxes(length=_expression(value_of(tokens).shape[1]))
    found.axis[tokens] = 1
    for node in graph.nodes:
        if node.op == "call_function":
            _visit(node, found)
    return found


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _visit(node: Node, found: SequenceAxes) -> None:
    value = value_of(node)
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float):
        if found.length in getattr(_expression(value), "free_symbols", ()):
            found.lengths.add(node)
        return
    dependent = [source for source in node.all_input_nodes if source in found.axis]
    if not dependent:
        if isinstance(value, torch.Tensor):
            axes = [i for i, size in enumerate(value.shape) if _mentions(size, found.length)]
            if len(axes) == 1 and _expression(value.shape[axes[0]]) == found.length:
                found.tables[node] = axes[0]
            elif axes and not all(user.target in _TABLE_SAFE for user in node.users):
                found.tables[node] = -1
        return
    rule = _rule_of(node)
    if rule is None:
        raise NotPositionWiseError(
            f"{where(node)} has no rule that proves it position-wise; if it is, add a rule to "
            "passes/_sequence.py"
        )
    if any(source in found.lengths for source in node.all_input_nodes) and rule not in _SHAPED:
        raise NotPositionWiseError(
            f"{where(node)} uses the sequence length as a number; a partial evaluation would "
            "see another number"
        )
    axis = rule(node, found)
    if axis is None:
        raise NotPositionWiseError(
            f"{where(node)} mixes or reorders positions along the sequence axis; a denoiser's "
            "layers must be position-wise outside attention"
        )
    _check_axis(node, value, axis, found)
    found.axis[node] = axis
    for table in node.all_input_nodes:
        if table in found.tables:
            if found.tables[table] < 0 or rule is not _pointwise and rule is not _rotary:
                raise NotPositionWiseError(
                    f"{where(node)} meets the table {where(table)} in a way that cannot be "
                    "indexed by position"
                )
            found.meetings.append((node, table))


def _mentions(size: Any, length: Any) -> bool:
    return length in getattr(_expression(size), "free_symbols", ())


def _check_axis(node: Node, value: Any, axis: int, found: SequenceAxes) -> None:
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, torch.Tensor):
            sized = [i for i, size in enumerate(part.shape) if _mentions(size, found.length)]
            if sized != [axis] or _expression(part.shape[axis]) != found.length:
                raise NotPositionWiseError(
                    f"{where(node)} has shape {list(part.shape)}, in which the positions are not "
                    f"axis {axis} alone"
                )


Rule = "Callable[[Node, SequenceAxes], int | None]"


def _rank(node: Any) -> int:
    return int(value_of(node).dim())


def _first(node: Node) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _dim(dim: Any, rank: int) -> int:
    return int(dim) % rank


def _only_data_is_dependent(node: Node, found: SequenceAxes) -> bool:
    data = _first(node)
    return data in found.axis and all(
        source is data or source not in found.axis for source in node.all_input_nodes
    )


def _pointwise(node: Node, found: SequenceAxes) -> int | None:
    rank = _rank(node)
    aligned = {
        found.axis[source] + rank - _rank(source)
        for source in node.all_input_nodes
        if source in found.axis
    }
    aligned |= {
        found.tables[source] + rank - _rank(source)
        for source in node.all_input_nodes
        if found.tables.get(source, -1) >= 0
    }
    return aligned.pop() if len(aligned) == 1 else None


def _same(node: Node, found: SequenceAxes) -> int | None:
    return found.axis[_first(node)] if _only_data_is_dependent(node, found) else None


def _rotary(node: Node, found: SequenceAxes) -> int | None:
    return found.axis.get(_first(node))


def _embedding(node: Node, found: SequenceAxes) -> int | None:
    indices = node.args[1]
    return found.axis[indices] if _first(node) not in found.axis else None  # type: ignore[index]


def _last_axis_free(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis = found.axis[_first(node)]
    return axis if axis != _rank(_first(node)) - 1 else None


def _normalised(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis, shape = found.axis[_first(node)], node.args[1]
    return axis if axis < _rank(_first(node)) - len(shape) else None  # type: ignore[arg-type]


def _matmul(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis, rank = found.axis[_first(node)], _rank(_first(node))
    if axis == rank - 1:
        return None
    other = node.args[1]
    return axis + (_rank(node) - rank if _rank(other) > 1 else 0)


def _reduction(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis, rank = found.axis[_first(node)], _rank(_first(node))
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if dims is None:
        return None
    reduced = {_dim(d, rank) for d in (dims if isinstance(dims, list | tuple) else [dims])}
    if axis in reduced:
        return None
    value = value_of(node)
    kept = value[0] if isinstance(value, list | tuple) else value
    return axis if kept.dim() == rank else axis - sum(d < axis for d in reduced)


def _along(node: Node, found: SequenceAxes) -> int | None:
    """Operators that work along one axis and keep the rank: softmax, slice, chunk, topk..."""
    if not _only_data_is_dependent(node, found):
        return None
    axis = found.axis[_first(node)]
    dim = _argument(node, "dim")
    return axis if _dim(dim, _rank(_first(node))) != axis else None


def _argument(node: Node, name: str) -> Any:
    for index, parameter in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if parameter.name == name:
            given = node.args[index] if index < len(node.args) else node.kwargs.get(name)
            return parameter.default_value if given is None else given
    return None


def _removes_axis(node: Node, found: SequenceAxes) -> int | None:
    axis, dim = found.axis[_first(node)], _dim(_argument(node, "dim"), _rank(_first(node)))
    return None if dim == axis else axis - (dim < axis)


def _transpose(node: Node, found: SequenceAxes) -> int | None:
    rank = _rank(node)
    first, second = (_dim(d, rank) for d in node.args[1:3])
    axis = found.axis[_first(node)]
    return {first: second, second: first}.get(axis, axis)


def _permute(node: Node, found: SequenceAxes) -> int | None:
    dims = [_dim(d, _rank(node)) for d in node.args[1]]  # type: ignore[union-attr]
    return dims.index(found.axis[_first(node)])


def _unsqueeze(node: Node, found: SequenceAxes) -> int | None:
    axis, dim = found.axis[_first(node)], _dim(node.args[1], _rank(node))
    return axis + (dim <= axis)


def _view(node: Node, found: SequenceAxes) -> int | None:
    before, after = value_of(_first(node)).shape, value_of(node).shape
    axis = found.axis[_first(node)]
    leading = _product(before[:axis])
    for new, size in enumerate(after):
        if _expression(size) == found.length and _product(after[:new]) == leading:
            return new
    return None


def _product(sizes: Iterable[Any]) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * _expression(size)
    return total


def _expand(node: Node, found: SequenceAxes) -> int | None:
    return found.axis[_first(node)] + _rank(node) - _rank(_first(node))


def _join(node: Node, found: SequenceAxes) -> int | None:
    parts = node.args[0]
    axes = {found.axis.get(part, -1) for part in parts}  # type: ignore[union-attr]
    axis = axes.pop()
    dim = _dim(node.args[1] if len(node.args) > 1 else 0, _rank(node))
    if axes or axis < 0:
        return None
    if is_call(node, aten.stack.default):
        return axis + (dim <= axis)
    return axis if dim != axis else None


def _attention(node: Node, found: SequenceAxes) -> int | None:
    axes = {found.axis.get(source, -1) for source in node.args[:3]}  # type: ignore[arg-type]
    return 2 if axes == {2} else None


_RULES: dict[Any, Any] = {
    operator.getitem: _same,
    aten.embedding.default: _embedding,
    aten.linear.default: _last_axis_free,
    canonical("rms_norm"): _last_axis_free,
    canonical("rotary"): _rotary,
    canonical("swiglu"): _pointwise,
    canonical("attention"): _attention,
    aten.layer_norm.default: _normalised,
    aten.rms_norm.default: _normalised,
    aten.matmul.default: _matmul,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.cat.default: _join,
    aten.stack.default: _join,
    aten.expand.default: _expand,
    aten.to.dtype: _same,
    aten._to_copy.default: _same,
}
_RULES |= dict.fromkeys(
    (aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int), _view
)
_RULES |= dict.fromkeys(
    (
        aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten.slice.Tensor,
        aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default,
        aten.cumsum.default, aten.topk.default, aten.repeat_interleave.self_int,
        aten.narrow.default, aten.glu.default,
    ),
    _along,
)  # fmt: skip
_RULES |= dict.fromkeys(
    (
        aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
        aten.argmax.default, aten.argmin.default, aten.logsumexp.default, aten.max.dim,
        aten.min.dim, aten.var.correction, aten.linalg_vector_norm.default,
    ),
    _reduction,
)  # fmt: skip
_RULES |= dict.fromkeys(
    (aten.select.int, aten.squeeze.dim, aten.unbind.int), _removes_axis
)
_SHAPED = (_view, _expand)
_TABLE_SAFE = (aten.sym_size.int,)


def _rule_of(node: Node) -> Any:
    if node.target in _RULES:
        return _RULES[node.target]
    if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
        return _pointwise
    return None
