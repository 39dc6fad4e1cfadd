"""Attention in the precision of the model, where its code widens what it multiplies."""

from __future__ import annotations

import torch
from torch.fx import Node

from dllmc.kernels.rms_norm import HALF
from dllmc.passes._graph import argument, aten, casts_to, derived, dtype_of, is_call, replace
from dllmc.passes._scores import VIEWS
from dllmc.passes.match_attention import SDPA

_LAYOUTS = (
    *VIEWS, aten.transpose.int, aten.permute.default, aten.mT.default, aten.squeeze.dim,
    aten.unsqueeze.default, aten.expand.default, aten.repeat_interleave.self_int,
)  # fmt: skip


def attention_dtype(q: Node, k: Node, v: Node) -> torch.dtype | None:
    """The half precision that all were widened from, since caches hold that; else that of q."""
    narrow = {dtype_of(_before_widening(node)) for node in (q, k, v)}
    return narrow.pop() if len(narrow) == 1 else dtype_of(q)


def keep_narrow(call: Node) -> None:
    """Let a call of widened tensors read them as they were, and widen what it returns."""
    operands = [argument(call, name) for name in ("query", "key", "value")]
    dtype, wide = attention_dtype(*operands), dtype_of(call)
    mask = argument(call, "attn_mask")
    if dtype == wide:
        return
    with call.graph.inserting_before(call):
        if mask is not None and dtype_of(mask) != torch.bool:
            mask = cast(mask, dtype, call)
        narrow = [cast(node, dtype, call) for node in operands]
        others = [argument(call, name) for name in ("dropout_p", "is_causal")]
        named = {name: argument(call, name) for name in ("scale", "enable_gqa")}
        new = derived(call, SDPA, *narrow, mask, *others, **named)
        replace(call, cast(new, wide, call))


def _before_widening(node: Node) -> Node:
    source = node
    while is_call(source, *_LAYOUTS) or casts_to(source) == torch.float32:
        widened = casts_to(source) == torch.float32
        below = source.args[0]
        assert isinstance(below, Node)
        source = below
        if widened:
            return source if dtype_of(source) in HALF else node
    return node


def cast(node: Node, dtype: torch.dtype | None, root: Node) -> Node:
    """`node` converted to `dtype`, for `root`; itself where it has that."""
    return node if dtype_of(node) == dtype else derived(root, aten.to.dtype, node, dtype)
