"""Products of two tensors as sums over letters: matmul, bmm, baddbmm and einsum alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch.fx import Node

from dllmc.passes._graph import argument, aten, derived, expression, is_call, value_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Stands for an axis of size 1 that only broadcasts.
_BROADCAST = "."


class Operand(NamedTuple):
    """A tensor and a letter for each of its axes.

    Attributes:
        node: The tensor.
        letters: Of its axes; of two where one axis is `split`.
        split: The first of two letters that are one axis of `node`, or "".
        parts: Size of the second of them.
    """

    node: Node
    letters: str
    split: str = ""
    parts: int = 1

    def sizes(self) -> dict[str, Any]:
        """Size of each letter as an expression."""
        shape = [expression(size) for size in value_of(self.node).shape]
        if self.split:
            axis = self.letters.index(self.split)
            shape[axis : axis + 1] = [shape[axis] / self.parts, self.parts]
        named = dict(zip(self.letters, shape, strict=True))
        named.pop(_BROADCAST, None)
        return named


class Product(NamedTuple):
    """`left` times `right`, summed over the letters that `letters` lacks."""

    left: Operand
    right: Operand
    letters: str

    def sizes(self) -> dict[str, Any]:
        """Size of each letter as an expression."""
        return self.right.sizes() | self.left.sizes()


def product_of(node: object) -> Product | None:
    """The product that a node computes, or None."""
    if is_call(node, aten.matmul.default, aten.bmm.default):
        return _matrix_product(node.args[0], node.args[1])
    if is_call(node, aten.baddbmm.default):
        return _matrix_product(argument(node, "batch1"), argument(node, "batch2"))
    if is_call(node, aten.einsum.default):
        return _einsum(node)
    return None


def _matrix_product(left: Any, right: Any) -> Product | None:
    rank = value_of(left).dim()
    if rank not in (3, 4, 5) or value_of(right).dim() != rank:
        return None
    leading = "abc"[: rank - 2]
    words = []
    for side, other in ((left, right), (right, left)):
        sizes = zip(leading, value_of(side).shape, value_of(other).shape, strict=False)
        words.append("".join(_BROADCAST if s == 1 and o != 1 else c for c, s, o in sizes))
    first, second = Operand(left, words[0] + "xy"), Operand(right, words[1] + "yz")
    return Product(first, second, leading + "xz")


def _einsum(node: Node) -> Product | None:
    equation, parts = argument(node, "equation"), list(argument(node, "tensors"))
    if len(parts) != 2 or "->" not in equation or "." in equation:
        return None
    inputs, output = equation.replace(" ", "").split("->")
    left, right = inputs.split(",")
    if any(len(set(word)) != len(word) for word in (left, right, output)):
        return None
    return Product(Operand(parts[0], left), Operand(parts[1], right), output)


def with_batch_apart(product: Product, batch: Any) -> Product | None:
    """The product with a letter of the batch's size: merged batch and heads get two letters."""
    sizes = product.sizes()
    if batch in [sizes[letter] for letter in product.letters]:
        return product
    for letter in product.letters:
        parts = sizes[letter] / batch
        if getattr(parts, "is_Integer", False):
            return _split(product, letter, int(parts))
    return None


def _split(product: Product, letter: str, parts: int) -> Product:
    free = next(c for c in "ABCDEFGHIJ" if c not in product.sizes())
    sides = []
    for side in (product.left, product.right):
        if letter in side.letters:
            word = side.letters.replace(letter, letter + free)
            sides.append(Operand(side.node, word, letter, parts))
        else:
            sides.append(side)
    return Product(sides[0], sides[1], product.letters.replace(letter, letter + free))


def renamed(product: Product, names: Mapping[str, str]) -> Product:
    """The product with other letters."""

    def word(letters: str) -> str:
        return "".join(names.get(letter, letter) for letter in letters)

    sides = [
        side._replace(letters=word(side.letters), split=word(side.split))
        for side in (product.left, product.right)
    ]
    return Product(sides[0], sides[1], word(product.letters))


def arranged(operand: Operand, groups: Sequence[str], like: Node) -> Node:
    """`operand` with one axis for each of `groups`, the product of the group's letters.

    Code is inserted where the graph inserts next. An empty group is an axis of size 1.
    """
    node, letters = operand.node, operand.letters
    if operand.split:
        axis = letters.index(operand.split)
        node = derived(like, aten.unflatten.int, node, axis, [-1, operand.parts])
    for axis in reversed(range(len(letters))):
        if letters[axis] == _BROADCAST:
            node = derived(like, aten.squeeze.dim, node, axis)
    letters = letters.replace(_BROADCAST, "")
    node = permuted(node, [letters.index(letter) for letter in "".join(groups)], like)
    for axis, group in enumerate(groups):
        if not group:
            node = derived(like, aten.unsqueeze.default, node, axis)
        elif len(group) > 1:
            node = derived(like, aten.flatten.using_ints, node, axis, axis + len(group) - 1)
    return node


def permuted(node: Node, order: list[int], like: Node) -> Node:
    """`node` with its axes in `order`; no new node where its input had that order already."""
    if order == list(range(len(order))):
        return node
    before = _order_of(node)
    if before is not None:
        source = node.args[0]
        assert isinstance(source, Node)
        return permuted(source, [before[axis] for axis in order], like)
    moved = [index for index, axis in enumerate(order) if index != axis]
    if len(moved) == 2:
        return derived(like, aten.transpose.int, node, *moved)
    return derived(like, aten.permute.default, node, order)


def _order_of(node: Node) -> list[int] | None:
    """The order in which a node puts its input's axes, if that is all it does."""
    rank = value_of(node).dim()
    if is_call(node, aten.permute.default):
        return [axis % rank for axis in argument(node, "dims")]
    if is_call(node, aten.mT.default):
        return [*range(rank - 2), rank - 1, rank - 2]
    if is_call(node, aten.transpose.int):
        order = list(range(rank))
        first, second = (argument(node, name) % rank for name in ("dim0", "dim1"))
        order[first], order[second] = second, first
        return order
    return None
