"""Recognise root-mean-square normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import argument, aten, calls, casts_to, dtype_of, is_call, operands, replace

if TYPE_CHECKING:
    from torch.fx import GraphModule


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
    """

    name = "match_rms_norm"
    stage = Stage.CANONICALISE
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
    weight, eps = argument(node, "weight"), argument(node, "eps")
    if weight is None or len(argument(node, "normalized_shape")) != 1:
        return None
    dtype = dtype_of(argument(node, "input"))
    if eps is None and dtype is not None:
        eps = torch.finfo(dtype).eps
    return _Site(node, argument(node, "input"), weight, eps)


def _written_out(rsqrt: Node) -> _Site | None:
    total = rsqrt.args[0]
    if not is_call(total, aten.add.Tensor, aten.add.Scalar):
        return None
    mean, eps = total.args[0], total.args[1]  # type: ignore[union-attr]
    if not (is_call(mean, aten.mean.dim) and isinstance(eps, float)):
        return None
    square, dims, keepdim = (*mean.args, False)[:3]  # type: ignore[union-attr]
    if not (dims == [-1] and keepdim):
        return None
    x = _squared(square)
    scaled = _only_product(rsqrt, x) if x is not None else None
    if x is None or scaled is None:
        return None
    narrowed = scaled
    original = x
    if casts_to(x) == torch.float32:
        original = x.args[0]  # type: ignore[assignment]
        user = _only_user(scaled)
        if user is None or casts_to(user) != dtype_of(original):
            return None
        narrowed = user
    root = _only_user(narrowed)
    if root is None or not is_call(root, aten.mul.Tensor):
        return None
    for product, weight in operands(root):
        if product is narrowed and isinstance(weight, Node) and weight.op == "get_attr":
            return _Site(root, original, weight, eps)
    return None


def _squared(node: object) -> Node | None:
    if is_call(node, aten.pow.Tensor_Scalar) and node.args[1] == 2:  # type: ignore[union-attr]
        return node.args[0]  # type: ignore[union-attr,return-value]
    if is_call(node, aten.mul.Tensor) and node.args[0] is node.args[1]:  # type: ignore[union-attr]
        return node.args[0]  # type: ignore[union-attr,return-value]
    return None


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _only_product(rsqrt: Node, x: Node) -> Node | None:
    user = _only_user(rsqrt)
    if user is None or not is_call(user, aten.mul.Tensor):
        return None
    return user if set(user.args) == {rsqrt, x} else None
