"""Recognise attention, and refuse what a denoiser must not have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import argument, aten, calls, is_call, replace, value_of, where
from dllmc.spec import NotADenoiserError, NotPositionWiseError

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

SDPA = aten.scaled_dot_product_attention.default


class MatchAttention(GraphPass):
    """Before: `scaled_dot_product_attention(q, repeat(k), repeat(v))`.

    After: `dllmc.attention(q, k, v, scale)`, heads of k and v not repeated.

    Raises:
        NotADenoiserError: The attention is causal. Caching passes of other compilers accept
            that silently and return wrong tokens.
        NotPositionWiseError: The attention has a mask or bias, or dropout, or other axes than
            batch, heads, positions and width.
    """

    name = "match_attention"
    stage = Stage.CANONICALISE
    after = ("remove_noops",)

    def expected(self, context: PassContext) -> int:
        return context.layers

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        sites = calls(module, SDPA)
        for site in sites:
            _check(site)
            q, k, v = (argument(site, name) for name in ("query", "key", "value"))
            scale = argument(site, "scale")
            if scale is None:
                scale = 1 / math.sqrt(value_of(q).shape[-1])
            with module.graph.inserting_before(site):
                new = module.graph.call_function(
                    canonical("attention"), (q, *_ungrouped(k, v), scale)
                )
            replace(site, new)
        return len(sites)


def _check(site: Node) -> None:
    if argument(site, "is_causal"):
        raise NotADenoiserError(
            f"{where(site)} is causal; a denoiser's attention sees both directions. Only an "
            "auxiliary model (role='auxiliary') may be causal"
        )
    if argument(site, "attn_mask") is not None:
        raise NotPositionWiseError(
            f"{where(site)} has an attention mask or bias, which cannot be indexed by position "
            "yet; call the model without it"
        )
    if argument(site, "dropout_p"):
        raise NotPositionWiseError(f"{where(site)} has dropout; put the module in eval mode")
    rank = value_of(site).dim()
    if rank != 4:
        raise NotPositionWiseError(
            f"{where(site)} has {rank} axes; give batch, heads, positions and width"
        )


def _ungrouped(k: Any, v: Any) -> tuple[Node, Node]:
    """K and v before their heads were repeated for grouped queries."""
    if all(is_call(node, aten.repeat_interleave.self_int) for node in (k, v)):
        times = {argument(node, "repeats") for node in (k, v)}
        dims = {argument(node, "dim") for node in (k, v)}
        if len(times) == 1 and dims <= {1, -3}:
            return argument(k, "self"), argument(v, "self")
    return k, v
