"""Division by the root of the mean square, as people write it."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.fx import Node

from dllmc.passes._constants import constant_of
from dllmc.passes._graph import alike, argument, aten, casts_to, is_call, operands, value_of


class Normalised(NamedTuple):
    """`x` over the root of (the mean square of `squared` over its last axis, plus `eps`).

    Attributes:
        x: What is divided.
        squared: What the mean square is of: `x`, or either widened from the other or with it.
        eps: Added to the mean.
        by_rsqrt: Whether it is a product with `rsqrt`, and the mean torch's.
    """

    x: Node
    squared: Node
    eps: float
    by_rsqrt: bool


def normalised_by_hand(node: Node) -> Normalised | None:
    """What `node` divides by a root mean square, or None if it does not."""
    if is_call(node, aten.mul.Tensor):
        for x, factor in operands(node):
            square, by_rsqrt = _under_inverse_root(factor)
            found = _of(x, square, by_rsqrt)
            if found is not None:
                return found
    if is_call(node, aten.div.Tensor):
        return _of(node.args[0], _under_root(node.args[1]), by_rsqrt=False)
    return None


def _of(x: object, square: object, by_rsqrt: bool) -> Normalised | None:
    if not is_call(square, aten.add.Tensor, aten.add.Scalar) or not isinstance(x, Node):
        return None
    for mean, added in operands(square):
        eps, squared = constant_of(added), _mean_of_squares(mean)
        if eps is not None and squared is not None and _same_numbers(x, squared):
            return Normalised(x, squared, eps, by_rsqrt and is_call(mean, aten.mean.dim))
    return None


def _same_numbers(x: Node, squared: Node) -> bool:
    """Whether both are one tensor, conversions apart."""
    sources = [n.args[0] if casts_to(n) is not None else n for n in (x, squared)]
    return any(alike(one, other) for one in (x, sources[0]) for other in (squared, sources[1]))


def _under_inverse_root(node: object) -> tuple[object, bool]:
    """S of `1 / sqrt(S)`, and whether that is `rsqrt`."""
    if is_call(node, aten.rsqrt.default):
        return node.args[0], True
    if is_call(node, aten.reciprocal.default):
        return _under_root(node.args[0]), False
    if is_call(node, aten.mul.Tensor) and constant_of(node.args[1]) == 1:
        # `1 / x` is exported as `reciprocal(x) * 1`.
        return _under_inverse_root(node.args[0])
    if is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == -0.5:
        return node.args[0], False
    return None, False


def _under_root(node: object) -> object:
    """S of `sqrt(S)`."""
    if is_call(node, aten.sqrt.default):
        return node.args[0]
    root = is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == 0.5
    return node.args[0] if root and isinstance(node, Node) else None


def _mean_of_squares(node: object) -> Node | None:
    """The x of `mean(x ** 2, -1, keepdim=True)`."""
    if is_call(node, aten.mean.dim):
        total: Any = node
    elif is_call(node, aten.div.Tensor) and is_call(node.args[0], aten.sum.dim_IntList):
        total = node.args[0]
    else:
        return None
    x = _squared(total.args[0])
    if x is None:
        return None
    last = value_of(x).dim() - 1
    if argument(total, "dim") not in ([-1], [last]) or not argument(total, "keepdim"):
        return None
    if total is not node and constant_of(node.args[1]) != value_of(x).shape[last]:
        return None
    return x


def _squared(node: object) -> Node | None:
    """The x of `x ** 2`, `x * x` or `square(x)`."""
    power = is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == 2
    product = is_call(node, aten.mul.Tensor) and alike(node.args[0], node.args[1])
    if not isinstance(node, Node) or not (power or product or is_call(node, aten.square.default)):
        return None
    return node.args[0] if isinstance(node.args[0], Node) else None
