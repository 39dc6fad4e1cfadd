"""Give attention a cache indexed by slots. The last structural pass: a mutation is a barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import add_placeholder, argument, calls, is_call, value_of

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node


class InsertCache(GraphPass):
    """Rows that are not evaluated are remembered.

    Before:
        y = attention(q, k, v, scale)
        y = attention(q, k, v, scale, limit, rows, rows, bias)
    After:
        inputs slots[B, W], key_limit[B], and keys_i, values_i [B, G, S, D] per layer
        y = cached_attention(q, k, v, keys_i, values_i, slots, key_limit, scale)
        y = cached_attention(..., scale, rows, key_positions, bias), key_positions[B, S] an input

    Where rows have limits, the input `key_limit` is `[B, R]` by row and takes their place, so
    that the decoder says what each row sees.

    Only `dllmc.attention` is rewritten, which is never causal, and `cached_attention` has no
    causal form.
    """

    name = "insert_cache"
    stage = Stage.CACHE

    def expected(self, context: PassContext) -> int:
        return context.layers

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        sites = calls(module, canonical("attention"))
        placed = any(argument(site, "key_positions") is not None for site in sites)
        slots = add_placeholder(module, "slots")
        key_limit = add_placeholder(module, "key_limit")
        key_positions = add_placeholder(module, "key_positions") if placed else None
        for layer, site in enumerate(sites):
            _give_cache(module, layer, site, slots, key_limit, key_positions)
        return len(sites)


def _give_cache(
    module: GraphModule,
    layer: int,
    site: Node,
    slots: Node,
    key_limit: Node,
    key_positions: Node | None,
) -> None:
    q, k, v, scale = (argument(site, name) for name in ("q", "k", "v", "scale"))
    caches = add_placeholder(module, f"keys_{layer}"), add_placeholder(module, f"values_{layer}")
    # Groups and width of a slot: what the runtime needs to allocate the cache.
    for cache, source in zip(caches, (k, v), strict=True):
        shape = value_of(source).shape
        cache.meta["cache_shape"] = (int(shape[1]), int(shape[3]))
    limit, rest = argument(site, "key_limit"), ()
    if key_positions is not None:
        rest = (argument(site, "query_positions"), key_positions, argument(site, "bias"))
    with module.graph.inserting_before(site):
        limited = key_limit
        if is_call(limit, canonical("gather_rows")):
            limited = module.graph.call_function(
                canonical("gather_rows"), (key_limit, *limit.args[1:])
            )
        new = module.graph.call_function(
            canonical("cached_attention"), (q, k, v, *caches, slots, limited, scale, *rest)
        )
    new.meta.update(site.meta)
    site.replace_all_uses_with(new)
    module.graph.erase_node(site)
