"""What is done to attention scores between their product and the softmax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from dllmc.passes._constants import constant_of
from dllmc.passes._graph import argument, aten, casts_to, is_call, operands, value_of
from dllmc.passes._products import product_of
from dllmc.passes.remove_noops import is_identity

VIEWS = (
    aten.view.default, aten.reshape.default, aten._unsafe_view.default,
    aten.flatten.using_ints, aten.unflatten.int,
)  # fmt: skip
# Filled in so that a key is not seen; its weight is then 0, in float64 too.
_NEVER = -1e4


@dataclass
class Scores:
    """`softmax(product * factor * scales + sum of added)` where nothing of `hidden` is set.

    Attributes:
        product: Of queries and keys.
        factor: Number that the scores are multiplied with.
        scales: Tensors that they are multiplied with.
        added: Additive masks and their own factors.
        hidden: Boolean masks; true and false respectively where a key is hidden.
    """

    product: Node
    factor: float = 1.0
    scales: list[Node] = field(default_factory=list)
    added: list[tuple[Node, float]] = field(default_factory=list)
    hidden: list[tuple[Node, bool]] = field(default_factory=list)

    def masks(self) -> list[Node]:
        """All masks."""
        return [node for node, _ in (*self.added, *self.hidden)]


def scores_of(node: object) -> Scores | None:
    """What leads to the scores `node`, or None if they are no scores or something else is done."""
    if not isinstance(node, Node):
        return None
    if is_call(node, *VIEWS) and _keeps_last_two(node):
        return scores_of(node.args[0])
    if is_identity(node) or casts_to(node) is not None:
        return scores_of(node.args[0])
    if product_of(node) is not None:
        return _product(node)
    for step in (_scaled, _masked, _hidden):
        found = step(node)
        if found is not None:
            return found
    return None


def _keeps_last_two(node: Node) -> bool:
    before, after = (value_of(n).shape for n in (node.args[0], node))
    return len(before) > 2 and len(after) > 2 and tuple(before[-2:]) == tuple(after[-2:])


def _product(node: Node) -> Scores:
    found = Scores(node)
    if is_call(node, aten.baddbmm.default):
        added, beta, alpha = (argument(node, name) for name in ("self", "beta", "alpha"))
        found.factor = float(alpha)
        if beta:
            found.added.append((added, float(beta)))
    return found


def _scaled(node: Node) -> Scores | None:
    pairs: list[tuple[Any, Any]] = []
    if is_call(node, aten.mul.Tensor, aten.mul.Scalar):
        pairs = list(operands(node))
    elif is_call(node, aten.div.Tensor, aten.div.Scalar):
        pairs = [(node.args[0], node.args[1])]
    for scores, factor in pairs:
        found = scores_of(scores)
        if found is None:
            continue
        number = constant_of(factor)
        if number is None:
            return _scaled_by_tensor(node, found, factor)
        if is_call(node, aten.div.Tensor, aten.div.Scalar):
            number = 1 / number
        found.factor *= number
        found.added = [(mask, own * number) for mask, own in found.added]
        return found if number > 0 else None
    return None


def _scaled_by_tensor(node: Node, found: Scores, factor: Any) -> Scores | None:
    """A factor by head or sequence can be applied to the queries."""
    value = value_of(factor)
    per_head = isinstance(value, torch.Tensor) and all(size == 1 for size in value.shape[-2:])
    if not per_head or found.masks() or not is_call(node, aten.mul.Tensor):
        return None
    found.scales.append(factor)
    return found


def _masked(node: Node) -> Scores | None:
    if not is_call(node, aten.add.Tensor, aten.sub.Tensor) or argument(node, "alpha") != 1:
        return None
    minus = is_call(node, aten.sub.Tensor)
    for scores, mask in operands(node):
        found = scores_of(scores)
        if found is not None and isinstance(mask, Node):
            if minus and scores is not node.args[0]:
                return None
            found.added.append((mask, -1.0 if minus else 1.0))
            return found
    return None


def _hidden(node: Node) -> Scores | None:
    """`masked_fill(scores, hidden, -inf)` and `where(seen, scores, -inf)`."""
    if is_call(node, aten.masked_fill.Scalar, aten.masked_fill.Tensor):
        cases = [(node.args[0], node.args[1], True, node.args[2])]
    elif is_call(node, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf):
        seen, one, other = node.args[:3]
        cases = [(one, seen, False, other), (other, seen, True, one)]
    else:
        return None
    for scores, mask, hides, fill in cases:
        found, value = scores_of(scores), constant_of(fill)
        if found is not None and value is not None and value <= _NEVER and isinstance(mask, Node):
            found.hidden.append((mask, hides))
            return found
    return None
