"""Recognise root-mean-square normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._constants import is_constant
from dllmc.passes._graph import (
    argument,
    aten,
    calls,
    casts_to,
    dtype_of,
    is_call,
    only_user,
    operands,
    replace,
    value_of,
)
from dllmc.passes._mean_square import normalised_by_hand

if TYPE_CHECKING:
    from torch.fx import GraphModule

_HALF = (torch.float16, torch.bfloat16)


class _Site(NamedTuple):
    root: Node
    x: Node
    weight: Node
    eps: float


class MatchRMSNorm(GraphPass):
    """Many spellings become the canonical operator.

    Before:
        y = weight * (x * rsqrt(mean(x ** 2, -1) + eps)), x widened to float32 where it is half
        y = x / sqrt(mean(x * x, -1) + eps) * (1 + weight)
        y = aten.rms_norm(x, [D], weight, eps)
    After:
        y = dllmc.rms_norm(x, weight, eps)

    In half precision the others multiply by the weight before they narrow, or take the root in
    another way; these are different numbers, so there they stay as they are.
    """

    name = "match_rms_norm"
    stage = Stage.CANONICALISE
    optional = True
    after = ("remove_noops",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        products = calls(module, aten.mul.Tensor, aten.div.Tensor)
        written_out = [_written_out(node) for node in products]
        fused = [_fused(node) for node in calls(module, aten.rms_norm.default)]
        sites = [site for site in (*written_out, *fused) if site is not None]
        for site in sites:
            with module.graph.inserting_before(site.root):
                new = module.graph.call_function(
                    canonical("rms_norm"), (site.x, site.weight, site.eps)
                )
            replace(site.root, new)
        return len(sites)


def _fused(node: Node) -> _Site | None:
    x, weight, eps = (argument(node, name) for name in ("input", "weight", "eps"))
    dtype = dtype_of(x)
    one_axis = len(argument(node, "normalized_shape")) == 1
    if weight is None or not one_axis or dtype is None or dtype in _HALF:
        return None
    if dtype_of(weight) != dtype:
        return None
    return _Site(node, x, weight, torch.finfo(dtype).eps if eps is None else eps)


def _written_out(node: Node) -> _Site | None:
    """The site, if `node` normalises and its only reader, narrowing apart, is weighted."""
    found = normalised_by_hand(node)
    if found is None:
        return None
    x, squared, eps, by_rsqrt = found
    original, narrowed = _widened(x, squared), node
    dtype = dtype_of(original)
    if dtype in _HALF:
        user = only_user(node)
        if not by_rsqrt or casts_to(user) != dtype or dtype_of(node) != torch.float32:
            return None
        assert user is not None
        narrowed = user
    elif {dtype_of(x), dtype_of(squared), dtype_of(node)} != {dtype}:
        return None
    root = only_user(narrowed)
    if not is_call(root, aten.mul.Tensor):
        return None
    for product, weight in operands(root):
        if product is narrowed and _is_weight(weight, original):
            return _Site(root, original, weight, eps)
    return None


def _widened(x: Node, squared: Node) -> Node:
    """What both factors come from, one of them or both widened to float32."""
    for node in (x, squared):
        source = node.args[0] if casts_to(node) == torch.float32 else None
        if isinstance(source, Node) and dtype_of(source) in _HALF:
            return source
    return x


def _is_weight(weight: object, x: Node) -> bool:
    if not isinstance(weight, Node) or not is_constant(weight):
        return False
    return dtype_of(weight) == dtype_of(x) and value_of(weight).shape == value_of(x).shape[-1:]
