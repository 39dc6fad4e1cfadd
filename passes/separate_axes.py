"""Keep batch, heads and positions as axes of their own."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.fx import GraphModule, Node

from dllmc.kernels import canonical
from dllmc.passes._axis_factors import common_factors
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    argument,
    aten,
    derived,
    expression,
    first_after_placeholders,
    is_call,
    placeholder,
    replace,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_VIEWS = (
    aten.reshape.default, aten.view.default, aten._unsafe_view.default,
    aten.flatten.using_ints, aten.unflatten.int,
)  # fmt: skip
_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
_ROW_BY_ROW = (*_NORMS, aten.linear.default, canonical("rms_norm"))
_REDUCTIONS = (
    aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
    aten.linalg_vector_norm.default, aten.var.correction,
)  # fmt: skip
_ALONG = (
    *_REDUCTIONS, aten.softmax.int, aten.log_softmax.int, aten.slice.Tensor, aten.topk.default,
    aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default,
)  # fmt: skip
_TENSORS = (torch.Tensor, list, tuple)
_PRODUCTS = (aten.mm.default, aten.addmm.default)


class _Apart(NamedTuple):
    """A tensor whose axes were not merged.

    Attributes:
        node: The tensor.
        groups: For each axis of the merged tensor, how many axes of `node` it is.
    """

    node: Node
    groups: tuple[int, ...]


class SeparateAxes(GraphPass):
    """What works on rows alone is done before they are merged, and not after.

    Before:
        reshape(linear(reshape(x, [B * T, D])), [B, T, E])
        reshape(transpose(reshape(x, [T, B * H, D]), 0, 1), [B, H, T, D])
    After:
        linear(x)
        permute(reshape(x, [T, B, H, D]), [1, 2, 0, 3])

    Then each tensor has a batch axis and a sequence axis, which the analysis needs. An operator
    that is not known to work on rows alone keeps its merged input.
    """

    name = "separate_axes"
    stage = Stage.CANONICALISE
    optional = True
    after = ("match_eager_attention", "remove_noops")

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        return _Separation(module).run()


class _Separation:
    def __init__(self, module: GraphModule) -> None:
        self._graph = module.graph
        tokens = placeholder(module, "tokens")
        self._sizes: dict[Any, Node] = {}
        self._first = first_after_placeholders(module)
        self._tokens = tokens
        self._symbols = [expression(size) for size in value_of(tokens).shape]
        self._apart: dict[Node, _Apart] = {}

    def run(self) -> int:
        """Rewrite the graph; the number of tensors whose axes are apart again."""
        done = 0
        for node in list(self._graph.nodes):
            if node.op != "call_function" or not isinstance(value_of(node), _TENSORS):
                continue
            with self._graph.inserting_before(node):
                found = self._separated(node)
            if found is None:
                continue
            if all(count == 1 for count in found.groups):
                replace(node, found.node)
                done += 1
            else:
                self._apart[node] = found
        return done

    def _separated(self, node: Node) -> _Apart | None:
        if is_call(node, *_VIEWS):
            return self._view(node)
        merged = [source for source in node.all_input_nodes if source in self._apart]
        if not merged:
            return None
        apart = self._apart[merged[0]]
        if is_call(node, aten.transpose.int, aten.permute.default):
            return _permuted(node, apart)
        if is_call(node, *_ROW_BY_ROW):
            return _row_by_row(node, apart, merged)
        if is_call(node, operator.getitem):
            return _Apart(_with_inputs(node, lambda _: apart.node), apart.groups)
        if is_call(node, *_ALONG):
            return _along_last(node, apart, merged)
        if is_call(node, *_PRODUCTS):
            return _product(node, apart, merged)
        if _is_pointwise(node):
            return self._pointwise(node, apart)
        return None

    def _view(self, node: Node) -> _Apart | None:
        source = node.args[0]
        assert isinstance(source, Node)
        known = self._apart.get(source)
        base = known.node if known else source
        before, after = ([expression(size) for size in value_of(n).shape] for n in (base, node))
        groups = common_factors(before, after, self._symbols)
        if groups is None or (known is None and not _merges(groups, self._symbols)):
            return None
        atoms = [size for group in groups for size in group]
        if atoms != before:
            base = derived(node, aten.reshape.default, base, [self._size(atom) for atom in atoms])
        return _Apart(base, tuple(len(group) for group in groups))

    def _size(self, atom: Any) -> Any:
        if atom not in self._symbols:
            return int(atom)
        if atom not in self._sizes:
            axis = self._symbols.index(atom)
            with self._graph.inserting_before(self._first):
                self._sizes[atom] = derived(self._tokens, aten.sym_size.int, self._tokens, axis)
        return self._sizes[atom]

    def _pointwise(self, node: Node, apart: _Apart) -> _Apart | None:
        trailing = 0
        while trailing < len(apart.groups) and apart.groups[-1 - trailing] == 1:
            trailing += 1
        for source in node.all_input_nodes:
            value = value_of(source)
            other = self._apart.get(source)
            if other is not None and other.groups != apart.groups:
                return None
            if other is None and isinstance(value, torch.Tensor) and value.dim() > trailing:
                return None
        new = _with_inputs(node, lambda n: self._apart[n].node if n in self._apart else n)
        return _Apart(new, apart.groups)


def _merges(groups: list[list[Any]], symbols: list[Any]) -> bool:
    return any(len(group) > 1 and set(group) & set(symbols) for group in groups)


def _permuted(node: Node, apart: _Apart) -> _Apart:
    rank = len(apart.groups)
    order = list(range(rank))
    if is_call(node, aten.permute.default):
        order = [axis % rank for axis in argument(node, "dims")]
    else:
        one, other = (argument(node, name) % rank for name in ("dim0", "dim1"))
        order[one], order[other] = other, one
    starts = [sum(apart.groups[:axis]) for axis in range(rank)]
    axes = [starts[axis] + i for axis in order for i in range(apart.groups[axis])]
    new = derived(node, aten.permute.default, apart.node, axes)
    return _Apart(new, tuple(apart.groups[axis] for axis in order))


def _row_by_row(node: Node, apart: _Apart, merged: list[Node]) -> _Apart | None:
    """Linear layers and norms over the last axis."""
    widths = len(argument(node, "normalized_shape")) if is_call(node, *_NORMS) else 1
    if merged != [node.args[0]] or widths != 1 or apart.groups[-1] != 1:
        return None
    new = derived(node, node.target, apart.node, *node.args[1:], **node.kwargs)
    return _Apart(new, apart.groups)


def _along_last(node: Node, apart: _Apart, merged: list[Node]) -> _Apart | None:
    """What works along the last axis and keeps it."""
    last = len(apart.groups) - 1
    dim = argument(node, "dim")
    if merged != [node.args[0]] or apart.groups[-1] != 1 or dim not in (-1, last, [-1], [last]):
        return None
    if is_call(node, *_REDUCTIONS) and not argument(node, "keepdim"):
        return None
    assert isinstance(node.target, torch._ops.OpOverload)
    named = [a.name for a in node.target._schema.arguments if not a.kwarg_only]
    known = {name: argument(node, name) for name in named[1:]}
    known["dim"] = [-1] if isinstance(dim, list) else -1
    kwargs = {key: value for key, value in node.kwargs.items() if key not in known}
    new = derived(node, node.target, apart.node, *known.values(), **kwargs)
    return _Apart(new, apart.groups)


def _product(node: Node, apart: _Apart, merged: list[Node]) -> _Apart | None:
    """`addmm(bias, x, weight)` and `mm(x, weight)`."""
    biased = is_call(node, aten.addmm.default)
    x, weight = node.args[1:3] if biased else node.args[:2]
    if merged != [x] or apart.groups[-1] != 1:
        return None
    if biased and not (argument(node, "beta") == argument(node, "alpha") == 1):
        return None
    new = derived(node, aten.matmul.default, apart.node, weight)
    if biased:
        bias = node.args[0]
        if value_of(bias).dim() != 1:
            return None
        new = derived(node, aten.add.Tensor, new, bias)
    return _Apart(new, apart.groups)


def _is_pointwise(node: Node) -> bool:
    target: Any = node.target
    if is_call(node, aten.to.dtype, aten._to_copy.default):
        return True
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def _with_inputs(node: Node, exchange: Callable[[Node], Node]) -> Node:
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), exchange)
    return derived(node, node.target, *args, **kwargs)
