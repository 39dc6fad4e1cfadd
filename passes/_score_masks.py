"""Masks of written-out attention, as one mask of torch's attention call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dllmc.passes._graph import aten, derived, dtype_of, expression, value_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Node

    from dllmc.passes._products import Product
    from dllmc.passes._scores import Scores


def masks_fit(scores: Scores, queries: Product, leading: str) -> bool:
    """Whether all masks and tensor factors broadcast to `[B, H, T, T]` as they are."""
    tensors = [value_of(node) for node in (*scores.masks(), *scores.scales)]
    if not tensors:
        return True
    in_order = queries.letters[:-2] == leading and len(leading) <= 2
    apart = not queries.left.split and len(leading) == 2
    for tensor in tensors:
        extra = tensor.dim() - 2
        alone = all(size == 1 for size in tensor.shape[: max(extra, 0)])
        fits = apart or alone or extra == 2 or _is_merged(tensor, queries)
        if not in_order or tensor.dim() > 4 or not fits:
            return False
    return True


def _is_merged(tensor: Tensor, queries: Product) -> bool:
    """Whether a mask `[B * H, T, T]` has batch and heads on one axis, as the queries have."""
    whole = value_of(queries.left.node)
    return bool(
        queries.left.split
        and tensor.dim() == whole.dim() == 3
        and expression(tensor.shape[0]) == expression(whole.shape[0])
    )


def mask_of(
    scores: Scores, queries: Product, dtype: torch.dtype | None, root: Node
) -> Node | None:
    """One mask for torch's attention call, boolean where none is added; None if there is none."""
    seen = _seen(scores, queries, root)
    added: Node | None = None
    for mask, factor in scores.added:
        term = _apart(mask, queries, root)
        if factor != 1:
            term = derived(root, aten.mul.Tensor, term, factor)
        if dtype_of(term) != dtype:
            term = derived(root, aten.to.dtype, term, dtype)
        added = term if added is None else derived(root, aten.add.Tensor, added, term)
    if added is None or seen is None:
        return added if seen is None else seen
    never: Any = -torch.inf
    return derived(root, aten.where.ScalarOther, seen, added, never)


def _apart(mask: Node, queries: Product, root: Node) -> Node:
    if not _is_merged(value_of(mask), queries):
        return mask
    return derived(root, aten.unflatten.int, mask, 0, [-1, queries.left.parts])


def _seen(scores: Scores, queries: Product, root: Node) -> Node | None:
    seen: Node | None = None
    for mask, hides in scores.hidden:
        term = _apart(mask, queries, root)
        if dtype_of(term) != torch.bool:
            term = derived(root, aten.to.dtype, term, torch.bool)
        if hides:
            term = derived(root, aten.logical_not.default, term)
        seen = term if seen is None else derived(root, aten.logical_and.default, seen, term)
    return seen
