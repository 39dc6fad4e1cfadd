"""Recognise rotary position embedding of the half-split layout."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, NamedTuple

from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    alike,
    argument,
    aten,
    calls,
    casts_to,
    dtype_of,
    expression,
    is_call,
    only_user,
    operands,
    replace,
    value_of,
)

if TYPE_CHECKING:
    from torch.fx import GraphModule

_SPLITS = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default)


class _Site(NamedTuple):
    root: Node
    x: Node
    cos: Node
    sin: Node


class MatchRotary(GraphPass):
    """Before: `x * cos + cat(-x[second half], x[first half]) * sin`.

    After: `dllmc.rotary(x, cos, sin)`. A half-precision x widened to the tables' dtype and the
    result narrowed again are part of the operator. Where torch widens by itself and nothing
    narrows again, the result has another dtype than x: that is left alone.
    """

    name = "match_rotary"
    stage = Stage.CANONICALISE
    optional = True
    after = ("remove_noops",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        matches = (_match(node) for node in calls(module, aten.add.Tensor))
        sites = [site for site in matches if site is not None]
        for site in sites:
            with module.graph.inserting_before(site.root):
                new = module.graph.call_function(canonical("rotary"), (site.x, site.cos, site.sin))
            replace(site.root, new)
        return len(sites)


def _match(add: Node) -> _Site | None:
    for plain, turned in operands(add):
        if not (is_call(plain, aten.mul.Tensor) and is_call(turned, aten.mul.Tensor)):
            continue
        for rotated, sin in operands(turned):
            x = _half_turn(rotated)
            if x is None:
                continue
            for factor, cos in operands(plain):
                if alike(factor, x) and isinstance(cos, Node) and isinstance(sin, Node):
                    return _with_casts(_Site(add, x, cos, sin))
    return None


def _half_turn(node: object) -> Node | None:
    """The x of `cat(-second half of x, first half of x)`."""
    if not is_call(node, aten.cat.default):
        return None
    parts, dim = argument(node, "tensors"), argument(node, "dim")
    if len(parts) != 2 or dim not in (-1, value_of(node).dim() - 1):
        return None
    negative, first = parts
    if not is_call(negative, aten.neg.default):
        return None
    low, high = _half(first), _half(negative.args[0])
    if low is None or high is None or not alike(low[0], high[0]) or (low[1], high[1]) != (0, 1):
        return None
    return low[0]


def _half(node: object) -> tuple[Node, int] | None:
    """(x, 0) for the first half of x's last axis, (x, 1) for the second."""
    if is_call(node, aten.select.int) and _last_but_one(node):
        return _half_of_pair(node, node.args[0], argument(node, "index"))
    if is_call(node, operator.getitem):
        source = node.args[0]
        if is_call(source, aten.unbind.int) and _last_but_one(source):
            return _half_of_pair(node, source.args[0], node.args[1])
        return _half_of_split(node.args[0], node.args[1])
    if is_call(node, aten.slice.Tensor):
        return _half_of_slice(node)
    return None


def _last_but_one(node: Node) -> bool:
    return argument(node, "dim") in (-2, value_of(node.args[0]).dim() - 2)


def _half_of_pair(node: Node, halves: object, index: object) -> tuple[Node, int] | None:
    """Of `unbind(x.view(..., 2, D / 2), -2)`, or one selected of it."""
    if not is_call(halves, aten.reshape.default, aten.view.default, aten.unflatten.int):
        return None
    x = halves.args[0]
    before, between, after = (
        [expression(size) for size in value_of(n).shape] for n in (x, halves, node)
    )
    split = before[:-1] == between[:-2] == after[:-1] and between[-2:] == [2, before[-1] // 2]
    if not split or before[-1] % 2 or not isinstance(x, Node):
        return None
    return (x, index) if isinstance(index, int) else None


def _half_of_split(split: object, index: object) -> tuple[Node, int] | None:
    if not is_call(split, *_SPLITS):
        return None
    x, parts = split.args[0], value_of(split)
    last = value_of(x).shape[-1]
    halves = len(parts) == 2 and all(part.shape[-1] * 2 == last for part in parts)
    return (x, index) if halves and isinstance(x, Node) and isinstance(index, int) else None


def _half_of_slice(node: Node) -> tuple[Node, int] | None:
    x, axis, start, end, step = (
        argument(node, name) for name in ("self", "dim", "start", "end", "step")
    )
    shape = value_of(x).shape
    last = shape[-1]
    stop = last if end is None else end
    if axis not in (-1, len(shape) - 1) or step != 1 or not isinstance(stop, int):
        return None
    bounds = (start or 0, min(stop, last))
    halves = {(0, last // 2): 0, (last // 2, last): 1}
    return (x, halves[bounds]) if last % 2 == 0 and bounds in halves else None


def _with_casts(site: _Site) -> _Site | None:
    """The site if the operator gives the same dtype, widened by conversions that are its own."""
    if {dtype_of(site.x), dtype_of(site.sin)} != {dtype_of(site.cos)}:
        return None
    narrow = only_user(site.root)
    if casts_to(site.x) is None or narrow is None:
        return site
    original = site.x.args[0]
    assert isinstance(original, Node)
    narrowed = casts_to(narrow) == dtype_of(original)
    return site._replace(root=narrow, x=original) if narrowed else site
