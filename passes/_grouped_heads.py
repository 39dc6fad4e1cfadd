"""Heads of keys and values that are repeated so that each group of query heads has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch.fx import Node

from dllmc.passes._graph import argument, aten, casts_to, derived, expression, is_call, value_of

if TYPE_CHECKING:
    from collections.abc import Callable

_VIEWS = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)
# Axis of the heads where attention reads them.
_HEADS = 1


class _Repeated(NamedTuple):
    """A tensor whose heads were repeated: how often, and how to make it without that."""

    times: int
    plain: Callable[[], Node]


def ungrouped(k: Node, v: Node, site: Node) -> tuple[Node, Node]:
    """K and v `[B, H, T, D]` before their heads were repeated, alike in both, for `site`.

    Recognised are `repeat_interleave`, and an axis of size 1 behind the heads that is expanded or
    repeated and then merged with them, also where heads and positions are exchanged afterwards.
    """
    repeated = [_repeated(node, _HEADS, site) for node in (k, v)]
    one, other = repeated
    if one is None or other is None or one.times != other.times:
        return k, v
    with site.graph.inserting_before(site):
        return one.plain(), other.plain()


def _repeated(node: object, axis: int, site: Node) -> _Repeated | None:
    if not isinstance(node, Node):
        return None
    rank = value_of(node).dim()
    if is_call(node, aten.transpose.int):
        dims = [argument(node, name) % rank for name in ("dim0", "dim1")]
        found = _repeated(node.args[0], {dims[0]: dims[1], dims[1]: dims[0]}.get(axis, axis), site)
        return _through(found, site, aten.transpose.int, *dims)
    if is_call(node, aten.permute.default):
        order = [dim % rank for dim in argument(node, "dims")]
        found = _repeated(node.args[0], order[axis], site)
        return _through(found, site, aten.permute.default, order)
    dtype = casts_to(node)
    if dtype is not None:
        return _through(_repeated(node.args[0], axis, site), site, aten.to.dtype, dtype)
    if is_call(node, aten.repeat_interleave.self_int):
        return _interleaved(node, axis, rank)
    return _merged(node, axis, site)


def _through(found: _Repeated | None, site: Node, target: Any, *args: Any) -> _Repeated | None:
    """The same operator, applied to what is not repeated."""
    if found is None:
        return None
    return _Repeated(found.times, lambda: derived(site, target, found.plain(), *args))


def _interleaved(node: Node, axis: int, rank: int) -> _Repeated | None:
    source, times, dim = (argument(node, name) for name in ("self", "repeats", "dim"))
    if dim is None or dim % rank != axis or not isinstance(times, int):
        return None
    return _Repeated(times, lambda: source)


def _merged(node: Node, axis: int, site: Node) -> _Repeated | None:
    """`flatten(expand(x[:, :, None], [B, G, times, T, D]), 1, 2)`."""
    if not is_call(node, *_VIEWS, aten.flatten.using_ints):
        return None
    wide = node.args[0]
    if not is_call(wide, aten.expand.default, aten.repeat.default):
        return None
    narrow = wide.args[0]
    assert isinstance(narrow, Node)
    shapes = [[expression(s) for s in value_of(n).shape] for n in (narrow, wide, node)]
    before, between, after = shapes
    if len(before) != len(between) or len(between) != len(after) + 1:
        return None
    times = between[axis + 1]
    rest = [i for i in range(len(before)) if i != axis + 1]
    only_repeats = (
        before[axis + 1] == 1
        and isinstance(times, int)
        and [before[i] for i in rest] == [between[i] for i in rest]
        and after[:axis] == between[:axis]
        and after[axis] == between[axis] * times
        and after[axis + 1 :] == between[axis + 2 :]
    )
    if not only_repeats:
        return None
    if (
        is_call(narrow, aten.unsqueeze.default)
        and argument(narrow, "dim") % len(before) == axis + 1
    ):
        source = narrow.args[0]
        assert isinstance(source, Node)
        return _Repeated(times, lambda: source)
    return _Repeated(times, lambda: derived(site, aten.squeeze.dim, narrow, axis + 1))
