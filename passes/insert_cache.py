"""Give attention a cache indexed by slots. The last structural pass: a mutation is a barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import add_placeholder, argument, calls, value_of

if TYPE_CHECKING:
    from torch.fx import GraphModule


class InsertCache(GraphPass):
    """Rows that are not evaluated are remembered.

    Before:
        y = attention(q, k, v, scale)
    After:
        inputs slots[B, W], key_limit[B], and keys_i, values_i [B, G, S, D] per layer
        y = cached_attention(q, k, v, keys_i, values_i, slots, key_limit, scale)

    Only `dllmc.attention` is rewritten, which is bidirectional by definition, and
    `cached_attention` has no causal form.
    """

    name = "insert_cache"
    stage = Stage.CACHE

    def expected(self, context: PassContext) -> int:
        return context.layers

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        sites = calls(module, canonical("attention"))
        slots = add_placeholder(module, "slots")
        key_limit = add_placeholder(module, "key_limit")
        for layer, site in enumerate(sites):
            q, k, v, scale = (argument(site, name) for name in ("q", "k", "v", "scale"))
            keys = add_placeholder(module, f"keys_{layer}")
            values = add_placeholder(module, f"values_{layer}")
            # Groups and width of a slot: what the runtime needs to allocate the cache.
            for cache, source in ((keys, k), (values, v)):
                shape = value_of(source).shape
                cache.meta["cache_shape"] = (int(shape[1]), int(shape[3]))
            with module.graph.inserting_before(site):
                new = module.graph.call_function(
                    canonical("cached_attention"),
                    (q, k, v, keys, values, slots, key_limit, scale),
                )
            new.meta.update(site.meta)
            site.replace_all_uses_with(new)
            module.graph.erase_node(site)
        return len(sites)
