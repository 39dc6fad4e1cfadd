"""Recognise rotary position embedding of the half-split layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import aten, calls, casts_to, dtype_of, is_call, operands, replace, value_of

if TYPE_CHECKING:
    from torch.fx import GraphModule


class _Site(NamedTuple):
    root: Node
    x: Node
    cos: Node
    sin: Node


class MatchRotary(GraphPass):
    """Before: `x * cos + cat(-x[second half], x[first half]) * sin`.

    After: `dllmc.rotary(x, cos, sin)`. A half-precision x widened to the tables' dtype and the
    result narrowed again are part of the operator.
    """

    name = "match_rotary"
    stage = Stage.CANONICALISE
    after = ("remove_noops",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        matches = (_match(node) for node in calls(module, aten.add.Tensor))
        sites = [site for site in matches if site is not None]
        for site in sites:
            with module.graph.inserting_before(site.root):
                new = module.graph.call_function(
                    canonical("rotary"), (site.x, site.cos, site.sin)
                )
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
                if factor is x:
                    return _with_casts(_Site(add, x, cos, sin))
    return None


def _half_turn(node: object) -> Node | None:
    """x of `cat(-second half of x, first half of x)`."""
    if not is_call(node, aten.cat.default):
        return None
    parts, *dim = node.args  # type: ignore[union-attr]
    rank = value_of(node).dim()  # type: ignore[arg-type]
    if not isinstance(parts, list | tuple) or len(parts) != 2 or dim not in ([-1], [rank - 1]):
        return None
    negative, first = parts
    if not is_call(negative, aten.neg.default):
        return None
    low, high = _half(first), _half(negative.args[0])  # type: ignore[union-attr]
    if low is None or high is None or low[0] is not high[0] or (low[1], high[1]) != (0, 1):
        return None
    return low[0]


def _half(node: object) -> tuple[Node, int] | None:
    """(x, 0) for the first half of x's last axis, (x, 1) for the second."""
    if not isinstance(node, Node) or not node.args:
        return None
    source = node.args[0]
    if node.op == "call_function" and node.target.__name__ == "getitem":  # type: ignore[union-attr]
        if not is_call(source, aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default):
            return None
        x = source.args[0]  # type: ignore[union-attr]
        parts = value_of(source)  # type: ignore[arg-type]
        last = x.meta["val"].shape[-1]  # type: ignore[union-attr]
        if len(parts) == 2 and all(part.shape[-1] * 2 == last for part in parts):
            return x, int(node.args[1])  # type: ignore[arg-type,return-value]
        return None
    if is_call(node, aten.slice.Tensor):
        x, axis, start, *end = node.args
        shape = x.meta["val"].shape  # type: ignore[union-attr]
        if axis not in (-1, len(shape) - 1):
            return None
        half = shape[-1] // 2
        stop = min(end[0], shape[-1]) if end else shape[-1]  # type: ignore[type-var]
        bounds = {(0, half): 0, (half, shape[-1]): 1}
        if (start, stop) in bounds:
            return x, bounds[start, stop]  # type: ignore[return-value,index]
    return None


def _with_casts(site: _Site) -> _Site:
    """Widen the match by the conversions around it, where they are the operator's own."""
    users = list(site.root.users)
    if casts_to(site.x) == dtype_of(site.cos) and len(users) == 1:
        narrow = dtype_of(site.x.args[0])  # type: ignore[arg-type]
        if narrow is not None and casts_to(users[0]) == narrow:
            return site._replace(root=users[0], x=site.x.args[0])  # type: ignore[arg-type]
    return site
