"""For each operator, where the sequence axis of its result is.

A rule returns that axis, or None if the operator mixes positions or sequences. Operators that
torch marks as pointwise need no entry.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._graph import argument, aten, expression, is_call, value_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dllmc.passes._sequence import SequenceAxes

    Rule = Callable[[Node, SequenceAxes], int | None]


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
        axes[source] + rank - _rank(source)
        for axes in (found.axis, found.tables)
        for source in node.all_input_nodes
        if axes.get(source, -1) >= 0
    }
    return aligned.pop() if len(aligned) == 1 else None


def _same(node: Node, found: SequenceAxes) -> int | None:
    return found.axis[_first(node)] if _only_data_is_dependent(node, found) else None


def _first_decides(node: Node, found: SequenceAxes) -> int | None:
    """The other tensor gives no more than a dtype."""
    return found.axis.get(_first(node))


def _rotary(node: Node, found: SequenceAxes) -> int | None:
    axis = _pointwise(node, found)
    return axis if axis != _rank(node) - 1 else None


def _embedding(node: Node, found: SequenceAxes) -> int | None:
    indices = argument(node, "indices")
    return found.axis[indices] if _first(node) not in found.axis else None


def _last_axis_free(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis = found.axis[_first(node)]
    return axis if axis != _rank(_first(node)) - 1 else None


def _normalised(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis, shape = found.axis[_first(node)], argument(node, "normalized_shape")
    return axis if axis < _rank(_first(node)) - len(shape) else None


def _matmul(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis, rank = found.axis[_first(node)], _rank(_first(node))
    if axis == rank - 1:
        return None
    return axis + (_rank(node) - rank if _rank(node.args[1]) > 1 else 0)


def _einsum(node: Node, found: SequenceAxes) -> int | None:
    """One token-dependent operand, whose batch and sequence letters pass through untouched."""
    equation, parts = argument(node, "equation"), list(argument(node, "tensors"))
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    letters = inputs.split(",")
    dependent = [index for index, part in enumerate(parts) if part in found.axis]
    if len(dependent) != 1:
        return None
    data = dependent[0]
    own = [letters[data][axes[parts[data]]] for axes in (found.axis, found.batch_axis)]
    elsewhere = "".join(word for index, word in enumerate(letters) if index != data)
    if any(letter in elsewhere or letter not in output for letter in own):
        return None
    return output.index(own[0])


def _reduction(node: Node, found: SequenceAxes) -> int | None:
    if not _only_data_is_dependent(node, found):
        return None
    axis, rank = found.axis[_first(node)], _rank(_first(node))
    dims = argument(node, "dim")
    if dims is None or dims == []:
        return None
    reduced = {_dim(d, rank) for d in (dims if isinstance(dims, list | tuple) else [dims])}
    if axis in reduced:
        return None
    value = value_of(node)
    kept = value[0] if isinstance(value, list | tuple) else value
    return axis if kept.dim() == rank else axis - sum(d < axis for d in reduced)


def _along(node: Node, found: SequenceAxes) -> int | None:
    """Operators that work along one axis and keep the rank: softmax, slice, chunk, topk..."""
    if not _only_data_is_dependent(node, found) or argument(node, "dim") is None:
        return None
    data, dim = _first(node), _dim(argument(node, "dim"), _rank(_first(node)))
    return found.axis[data] if dim not in (found.axis[data], found.batch_axis[data]) else None


def _removes_axis(node: Node, found: SequenceAxes) -> int | None:
    axis, dim = found.axis[_first(node)], _dim(argument(node, "dim"), _rank(_first(node)))
    return None if dim == axis else axis - (dim < axis)


def _transpose(node: Node, found: SequenceAxes) -> int | None:
    first, second = (_dim(d, _rank(node)) for d in node.args[1:3])
    axis = found.axis[_first(node)]
    return {first: second, second: first}.get(axis, axis)


def _last_two(node: Node, found: SequenceAxes) -> int | None:
    last, axis = _rank(node) - 1, found.axis[_first(node)]
    return {last: last - 1, last - 1: last}.get(axis, axis)


def _permute(node: Node, found: SequenceAxes) -> int | None:
    dims = [_dim(d, _rank(node)) for d in argument(node, "dims")]
    return dims.index(found.axis[_first(node)])


def _unsqueeze(node: Node, found: SequenceAxes) -> int | None:
    axis, dim = found.axis[_first(node)], _dim(argument(node, "dim"), _rank(node))
    return axis + (dim <= axis)


def _view(node: Node, found: SequenceAxes) -> int | None:
    """The same number of elements before the axis, and in it: then it is the same axis."""
    before, after = value_of(_first(node)).shape, value_of(node).shape
    axis = found.axis[_first(node)]
    leading = _product(before[:axis])
    for new, size in enumerate(after):
        if expression(size) == found.length and _product(after[:new]) == leading:
            return new
    return None


def _product(sizes: Iterable[Any]) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * expression(size)
    return total


def _complex_of_pairs(node: Node, found: SequenceAxes) -> int | None:
    """The last axis holds real and imaginary parts."""
    axis = found.axis[_first(node)]
    return axis if axis != _rank(_first(node)) - 1 else None


def _lookup(node: Node, found: SequenceAxes) -> int | None:
    """Rows of a constant by token-dependent numbers, or features by constant ones."""
    data, indices = _first(node), argument(node, "indices")
    if data not in found.axis:
        return (
            found.axis.get(indices[0]) if data not in found.sized and len(indices) == 1 else None
        )
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    if len(dims) != 1 or not _only_data_is_dependent(node, found):
        return None
    axis, added = found.axis[data], _rank(indices[dims[0]]) - 1
    if dims[0] in (axis, found.batch_axis[data]):
        return None
    return axis + (added if dims[0] < axis else 0)


def _pad(node: Node, found: SequenceAxes) -> int | None:
    """Padding of other axes; of the sequence it may well be a shift that keeps the length."""
    data, pad = _first(node), argument(node, "pad")
    ends = [_rank(node) - 1 - index // 2 for index, size in enumerate(pad) if size != 0]
    return found.axis[data] if not {found.axis[data], found.batch_axis[data]} & set(ends) else None


def _moved(node: Node, found: SequenceAxes) -> int | None:
    """Rolls and flips of other axes."""
    data, dims = _first(node), argument(node, "dims")
    moved = {_dim(dim, _rank(data)) for dim in dims}
    free = moved and not {found.axis[data], found.batch_axis[data]} & moved
    return found.axis[data] if free else None


def _batch_norm(node: Node, found: SequenceAxes) -> int | None:
    """With statistics that were kept, each feature is scaled and moved by constants."""
    if argument(node, "training") or argument(node, "running_mean") is None:
        return None
    data = _first(node)
    free = _only_data_is_dependent(node, found) and found.axis[data] != 1
    return found.axis[data] if free and found.batch_axis[data] != 1 else None


def _expand(node: Node, found: SequenceAxes) -> int | None:
    return found.axis[_first(node)] + _rank(node) - _rank(_first(node))


def _expand_as(node: Node, found: SequenceAxes) -> int | None:
    """The other tensor gives no more than a shape, which is checked."""
    return _expand(node, found) if _first(node) in found.axis else None


def _join(node: Node, found: SequenceAxes) -> int | None:
    parts: Any = node.args[0]
    axes = {found.axis.get(part, found.tables.get(part, -1)) for part in parts}
    axis = axes.pop()
    dim = _dim(argument(node, "dim"), _rank(node))
    if axes or axis < 0:
        return None
    if is_call(node, aten.stack.default):
        tables = any(part in found.tables for part in parts)
        return None if tables else axis + (dim <= axis)
    return axis if dim != axis else None


def _attention(node: Node, found: SequenceAxes) -> int | None:
    sources: Any = node.args[:3]
    placed = {(found.batch_axis.get(s, -1), found.axis.get(s, -1)) for s in sources}
    rows = {(found.batch_axis.get(s, -1), found.axis.get(s, -1)) for s in _row_arguments(node)}
    return 2 if placed == {(0, 2)} and rows <= {(0, 1)} else None


def _row_arguments(attention: Node) -> list[Node]:
    """Limits and positions, `[B, W]`."""
    names = ("key_limit", "query_positions", "key_positions")
    return [a for a in (argument(attention, name) for name in names) if a is not None]


def _row_positions(node: Node, found: SequenceAxes) -> int | None:
    return 1 if found.axis.get(_first(node)) == 1 else None


def _experts(node: Node, found: SequenceAxes) -> int | None:
    """Rows, their experts and these experts' weights, of the same positions in all three."""
    aligned: Any = node.args[:3]
    axis = _common_axis(aligned, found)
    alone = not any(source in found.axis for source in node.args[3:])
    last = _rank(node) - 1
    return axis if alone and last not in (axis, found.batch_axis.get(aligned[0])) else None


def _picks(node: Node, found: SequenceAxes) -> int | None:
    """Gathers or scatters along an axis in which every position has its own entries."""
    sources = [source for source in node.args if isinstance(source, Node)]
    axis = _common_axis(sources, found)
    dim = _dim(argument(node, "dim"), _rank(_first(node)))
    return axis if dim not in (axis, found.batch_axis.get(_first(node))) else None


def _common_axis(nodes: Iterable[Node], found: SequenceAxes) -> int | None:
    """The sequence axis of token-dependent tensors that agree in rank and in both axes."""
    placed = {(_rank(n), found.batch_axis.get(n), found.axis.get(n)) for n in nodes}
    return placed.pop()[2] if len(placed) == 1 else None


_RULES: dict[Any, Rule] = {
    operator.getitem: _same,
    aten.embedding.default: _embedding,
    aten.linear.default: _last_axis_free,
    aten.einsum.default: _einsum,
    aten.type_as.default: _first_decides,
    canonical("rms_norm"): _last_axis_free,
    canonical("rotary"): _rotary,
    canonical("swiglu"): _pointwise,
    canonical("attention"): _attention,
    canonical("experts"): _experts,
    canonical("row_positions"): _row_positions,
    # Elementwise, though torch does not mark it so.
    aten.floor_divide.default: _pointwise,
    aten.layer_norm.default: _normalised,
    aten.rms_norm.default: _normalised,
    aten.matmul.default: _matmul,
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.unsqueeze.default: _unsqueeze,
    aten.cat.default: _join,
    aten.stack.default: _join,
    aten.expand.default: _expand,
    aten.repeat.default: _expand,
    aten.expand_as.default: _expand_as,
    aten.view_as.default: _view,
    aten.mT.default: _last_two,
    aten.swapaxes.default: _transpose,
    aten.swapdims.default: _transpose,
    aten.view_as_complex.default: _complex_of_pairs,
    aten.index.Tensor: _lookup,
    aten.pad.default: _pad,
    aten.roll.default: _moved,
    aten.flip.default: _moved,
    aten.batch_norm.default: _batch_norm,
    aten.constant_pad_nd.default: _pad,
}
_RULES |= dict.fromkeys(
    (
        aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default, aten.full_like.default,
        aten.zeros_like.default, aten.ones_like.default, aten.view_as_real.default,
        aten.real.default, aten.imag.default, aten.one_hot.default,
    ),
    _same,
)  # fmt: skip
_RULES |= dict.fromkeys(
    (
        aten.view.default, aten.reshape.default, aten._unsafe_view.default,
        aten.flatten.using_ints, aten.unflatten.int,
    ),
    _view,
)  # fmt: skip
_RULES |= dict.fromkeys(
    (
        aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten.slice.Tensor,
        aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default,
        aten.cumsum.default, aten.cumprod.default, aten.topk.default, aten.sort.default,
        aten.argsort.default, aten.fft_fft.default, aten.index_select.default,
        aten.repeat_interleave.self_int, aten.narrow.default, aten.glu.default,
    ),
    _along,
)  # fmt: skip
_RULES |= dict.fromkeys(
    (
        aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
        aten.argmax.default, aten.argmin.default, aten.logsumexp.default, aten.max.dim,
        aten.min.dim, aten.var.correction, aten.var.dim, aten.std.correction, aten.std.dim,
        aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim,
    ),
    _reduction,
)  # fmt: skip
_RULES |= dict.fromkeys((aten.gather.default, aten.scatter.src, aten.scatter.value), _picks)
_RULES |= dict.fromkeys((aten.select.int, aten.squeeze.dim, aten.unbind.int), _removes_axis)

READS_SIZES: tuple[Rule, ...] = (_view, _expand)
"""Rules under which a size may be an argument: it is the shape of the result, and is checked."""

READS_TABLES: tuple[Rule, ...] = (_pointwise, _rotary, _join)
"""Rules under which a table keeps its meaning when it is gathered by position."""


def rule_of(node: Node) -> Rule | None:
    """The rule of a node's operator, or None if there is none."""
    if node.target in _RULES:
        return _RULES[node.target]
    if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
        return _pointwise
    return None
