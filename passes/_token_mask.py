"""Attention masks that follow from the tokens, such as one that hides padding.

Such a mask is an elementwise function of what stands at a query and at a key. It is built anew
with the two told apart: queries are the evaluated rows, keys what the cache holds. Every value on
the way has the axes batch, head, query, key, of size 1 where it does not vary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._attention_mask import follows_from_tokens
from dllmc.passes._graph import add_buffer, argument, aten, is_call, value_of, where
from dllmc.passes._tables import evaluate
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.fx import GraphModule

_QUERY, _KEY = 2, 3
# Elementwise, though torch does not mark all of them so.
_SAME = (
    aten.to.dtype,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.logical_not.default,
    aten.bitwise_not.default,
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.__xor__.Tensor,
)
# Numbers of a table by query and key position.
_LARGEST = 2**26


def rebuild(module: GraphModule, site: Node, mask: Node, rows: Node, max_length: int) -> Node:
    """`mask` of the attention at `site` as a function of evaluated rows and held keys.

    Args:
        module: Whose graph holds both.
        site: For messages.
        mask: `[.., T, T]` or `[.., 1, T]`, depending on the tokens.
        rows: The node of `row_positions(tokens)`.
        max_length: Of the canvas.

    Returns:
        The new mask `[B, H or 1, T or 1, T]`.

    Raises:
        NotPositionWiseError: It is not such a function.
    """
    rank = value_of(mask).dim()
    builder = _Builder(module, site, rows, max_length)
    with module.graph.inserting_before(site):
        root = builder.build(mask, {axis: axis + 4 - rank for axis in range(rank)})
    if builder.reads_queries:
        root.meta["sequence_axis"], root.meta["batch_axis"] = _QUERY, 0
    return root


class _Builder:
    def __init__(self, module: GraphModule, site: Node, rows: Node, max_length: int) -> None:
        self._module, self._site, self._max_length = module, site, max_length
        self._tokens: Any = rows.args[0]
        self._at = {_QUERY: rows}
        self._built: dict[tuple[Node, tuple[tuple[int, int], ...]], Node] = {}
        self.reads_queries = False

    def build(self, node: Node, axes: Mapping[int, int]) -> Node:
        """`node`, whose axes are these of the four."""
        key = node, tuple(sorted(axes.items()))
        if key not in self._built:
            self._built[key] = self._build(node, axes)
        return self._built[key]

    def _build(self, node: Node, axes: Mapping[int, int]) -> Node:
        if not follows_from_tokens(node):
            return self._table(node, axes)
        if node is self._tokens:
            return self._spread(self._rows_of(node, axes[1]), axes[1])
        if is_call(node, aten.unsqueeze.default):
            dim = int(argument(node, "dim")) % value_of(node).dim()
            return self.build(_first(node), {i - (i > dim): axes[i] for i in axes if i != dim})
        if is_call(node, aten.transpose.int):
            first, second = (int(dim) % value_of(node).dim() for dim in node.args[1:3])  # type: ignore[arg-type]
            swapped = {first: axes[second], second: axes[first]}
            return self.build(_first(node), {**axes, **swapped})
        if is_call(node, aten.expand.default):
            return self.build(_first(node), _aligned(_first(node), node, axes))
        if is_call(node, aten.view.default, aten.reshape.default, aten._unsafe_view.default):
            return self.build(_first(node), self._reshaped(node, axes))
        if not (is_call(node, *_SAME) or _is_elementwise(node)):
            self._refuse(node)
        return self._elementwise(node, axes)

    def _elementwise(self, node: Node, axes: Mapping[int, int]) -> Node:
        def operand(value: Any) -> Any:
            if not isinstance(value, Node) or not isinstance(value_of(value), torch.Tensor):
                return value
            return self.build(value, _aligned(value, node, axes))

        args = [operand(value) for value in node.args]
        return self._call(node.target, *args, **dict(node.kwargs))

    def _reshaped(self, node: Node, axes: Mapping[int, int]) -> dict[int, int]:
        """Axes of the source of a view that only adds axes of size 1."""
        sizes = [str(size) for size in value_of(_first(node)).shape]
        found, wanted = dict[int, int](), 0
        for axis, size in enumerate(value_of(node).shape):
            if wanted < len(sizes) and str(size) == sizes[wanted]:
                found[wanted] = axes[axis]
                wanted += 1
            elif str(size) != "1":
                self._refuse(node)
        if wanted < len(sizes):
            self._refuse(node)
        return found

    def _table(self, node: Node, axes: Mapping[int, int]) -> Node:
        """What follows from positions alone, looked up at those of the rows and of the keys."""
        values = evaluate(self._module, node, 1, self._max_length)
        shape, order = [1, 1, 1, 1], sorted(axes, key=lambda axis: axes[axis])
        for axis in axes:
            shape[axes[axis]] = values.shape[axis]
        values = values.permute(order).reshape(shape)
        if values.numel() > _LARGEST or values.shape[0] != 1:
            self._refuse(node)
        table = add_buffer(self._module, f"mask_{node.name}", values[0], self._site)
        varies = [axis for axis in (_QUERY, _KEY) if values.shape[axis] != 1]
        if len(varies) == 2:
            self.reads_queries = True
            rows = (self._position(_QUERY), self._position(_KEY))
            return self._call(canonical("position_bias"), table, *rows)
        if not varies:
            return self._call(aten.unsqueeze.default, table, 0)
        self.reads_queries |= varies[0] == _QUERY
        flat = self._call(aten.squeeze.dim, table, 2 if varies[0] == _QUERY else 1)
        # [H, T] at [B, N] gives [H, B, N].
        picked = self._call(aten.index.Tensor, flat, [None, self._position(varies[0])])
        spread = self._call(aten.transpose.int, picked, 0, 1)
        return self._call(aten.unsqueeze.default, spread, 3 if varies[0] == _QUERY else 2)

    def _rows_of(self, node: Node, axis: int) -> Node:
        """Values of `[B, T]` at the queries or at the keys."""
        if axis == _QUERY:
            self.reads_queries = True
            return node
        if axis != _KEY:
            self._refuse(node)
        return self._call(canonical("held"), node)

    def _position(self, axis: int) -> Node:
        if axis not in self._at:
            held = self._call(canonical("held"), self._at[_QUERY])
            # Scratch slots hold no position.
            self._at[axis] = self._call(aten.clamp.default, held, None, self._max_length - 1)
        return self._at[axis]

    def _spread(self, values: Node, axis: int) -> Node:
        spread = self._call(aten.unsqueeze.default, values, 1)
        return self._call(aten.unsqueeze.default, spread, 3 if axis == _QUERY else 2)

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        node = self._module.graph.call_function(target, args, kwargs)
        node.meta["attention_mask"] = True
        return node

    def _refuse(self, node: Node) -> NoReturn:
        raise NotPositionWiseError(
            f"{where(self._site)} has a mask that follows from the tokens through "
            f"{where(node)}, which is no function of one query and one key"
        )


def _first(node: Node) -> Node:
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _is_elementwise(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def _aligned(source: Node, node: Node, axes: Mapping[int, int]) -> dict[int, int]:
    """Axes of an operand that broadcasts to `node`."""
    shift = value_of(node).dim() - value_of(source).dim()
    return {axis: axes[axis + shift] for axis in range(value_of(source).dim())}
