"""Recognise root-mean-square normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
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

if TYPE_CHECKING:
    from torch.fx import GraphModule

_HALF = (torch.float16, torch.bfloat16)


class _Site(NamedTuple):
    root: Node
    x: Node
    weight: Node
    eps: float


class MatchRMSNorm(GraphPass):
    """Both spellings become the canonical operator.

    Before:
        y = weight * (x * rsqrt(mean(x ** 2, -1) + eps)), x widened to float32 where it is half
        y = aten.rms_norm(x, [D], weight, eps)
    After:
        y = dllmc.rms_norm(x, weight, eps)

    In half precision the second multiplies by the weight before it narrows, the canonical
    operator after; these are different numbers, so there it stays as it is.
    """

    name = "match_rms_norm"
    stage = Stage.CANONICALISE
    optional = True
    after = ("remove_noops",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        written_out = (_written_out(node) for node in calls(module, aten.rsqrt.default))
        fused = (_fused(node) for node in calls(module, aten.rms_norm.default))
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


def _written_out(rsqrt: Node) -> _Site | None:
    total = rsqrt.args[0]
    if not is_call(total, aten.add.Tensor, aten.add.Scalar):
        return None
    mean, eps = total.args[0], total.args[1]
    if not (is_call(mean, aten.mean.dim) and isinstance(eps, float)):
        return None
    x = _squared(mean.args[0])
    if x is None or not _over_last_axis(mean, x):
        return None
    normalised = only_user(rsqrt)
    if not is_call(normalised, aten.mul.Tensor) or set(normalised.args) != {rsqrt, x}:
        return None
    return _weighted(normalised, x, eps)


def _over_last_axis(mean: Node, x: Node) -> bool:
    last = value_of(x).dim() - 1
    return argument(mean, "dim") in ([-1], [last]) and bool(argument(mean, "keepdim"))


def _squared(node: object) -> Node | None:
    """The x of `x ** 2` or `x * x`."""
    power = is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == 2
    product = is_call(node, aten.mul.Tensor) and node.args[0] is node.args[1]
    if not isinstance(node, Node) or not (power or product):
        return None
    return node.args[0] if isinstance(node.args[0], Node) else None


def _weighted(normalised: Node, x: Node, eps: float) -> _Site | None:
    """The site, if `normalised`, narrowed again where x was widened, is then weighted."""
    narrowed: Node | None = normalised
    original = x
    if casts_to(x) is not None:
        source = x.args[0]
        assert isinstance(source, Node)
        original = source
        if casts_to(x) != torch.float32 or dtype_of(original) not in _HALF:
            return None
        narrowed = only_user(normalised)
        if casts_to(narrowed) != dtype_of(original):
            return None
    elif dtype_of(x) in _HALF:
        return None
    assert narrowed is not None
    root = only_user(narrowed)
    if not is_call(root, aten.mul.Tensor):
        return None
    for product, weight in operands(root):
        constant = isinstance(weight, Node) and weight.op == "get_attr"
        if product is narrowed and constant and dtype_of(weight) == dtype_of(original):
            return _Site(root, original, weight, eps)
    return None
