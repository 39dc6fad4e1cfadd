"""Masks of written-out attention, as one mask of torch's attention call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dllmc.passes._graph import aten, derived, dtype_of, value_of

if TYPE_CHECKING:
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
        if not in_order or tensor.dim() > 4 or not (apart or alone or extra == 2):
            return False
    return True


def mask_of(scores: Scores, dtype: torch.dtype | None, root: Node) -> Node | None:
    """One mask for torch's attention call, boolean where none is added; None if there is none."""
    seen = _seen(scores, root)
    added: Node | None = None
    for mask, factor in scores.added:
        term = mask if factor == 1 else derived(root, aten.mul.Tensor, mask, factor)
        if dtype_of(term) != dtype:
            term = derived(root, aten.to.dtype, term, dtype)
        added = term if added is None else derived(root, aten.add.Tensor, added, term)
    if added is None or seen is None:
        return added if seen is None else seen
    never: Any = -torch.inf
    return derived(root, aten.where.ScalarOther, seen, added, never)


def _seen(scores: Scores, root: Node) -> Node | None:
    seen: Node | None = None
    for mask, hides in scores.hidden:
        term = mask
        if dtype_of(term) != torch.bool:
            term = derived(root, aten.to.dtype, term, torch.bool)
        if hides:
            term = derived(root, aten.logical_not.default, term)
        seen = term if seen is None else derived(root, aten.logical_and.default, seen, term)
    return seen
