"""Give attention a cache indexed by slots. The last structural pass: a mutation is a barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    add_placeholder,
    argument,
    calls,
    dtype_of,
    is_call,
    placeholder,
    value_of,
    where,
)
from dllmc.spec import PassError

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

    What a mask reads of the keys, `held(tokens)` and `held(positions)`, becomes the inputs
    key_tokens and key_positions `[B, S]`.

    Where rows have limits, the input `key_limit` is `[B, R]` by row and takes their place, so
    that the decoder says what each row sees.

    Only `dllmc.attention` is rewritten, which hides nothing but what it is told to, and no form of
    `cached_attention` is causal by itself.
    """

    name = "insert_cache"
    stage = Stage.CACHE

    def expected(self, context: PassContext) -> int:
        return context.layers

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        sites = calls(module, canonical("attention"))
        held = calls(module, canonical("held"))
        placed = any(argument(site, "key_positions") is not None for site in sites)
        placed |= any(node.args[0] is placeholder(module, "positions") for node in held)
        slots = add_placeholder(module, "slots")
        key_limit = add_placeholder(module, "key_limit")
        key_positions = add_placeholder(module, "key_positions") if placed else None
        _read_slots(module, held, key_positions)
        for layer, site in enumerate(sites):
            _give_cache(module, layer, site, slots, key_limit, key_positions)
        return len(sites)


def _read_slots(module: GraphModule, held: list[Node], key_positions: Node | None) -> None:
    """Masks read what the slots hold."""
    tokens = placeholder(module, "tokens")
    key_tokens = None
    for node in held:
        if node.args[0] is tokens:
            key_tokens = key_tokens or add_placeholder(module, "key_tokens")
            node.replace_all_uses_with(key_tokens)
        else:
            assert key_positions is not None
            node.replace_all_uses_with(key_positions)
        module.graph.erase_node(node)


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
    _check_dtype(module, site, k)
    # Groups and width of a slot: what the runtime needs to allocate the cache.
    for cache, source in zip(caches, (k, v), strict=True):
        shape = value_of(source).shape
        cache.meta["cache_shape"] = (int(shape[1]), int(shape[3]))
    limit = argument(site, "key_limit")
    placed = key_positions if argument(site, "key_positions") is not None else None
    rest = [argument(site, "query_positions"), placed]
    rest += [argument(site, name) for name in ("bias", "mask")]
    while rest and rest[-1] is None:
        rest.pop()
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


def _check_dtype(module: GraphModule, site: Node, k: Node) -> None:
    """A cache has the dtype of the weights."""
    weights = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    if weights not in (None, dtype_of(k)) and dtype_of(k) is not None:
        raise PassError(
            f"{where(site)} attends to keys in {dtype_of(k)} and the weights are in {weights}; "
            "convert keys and values back before attention, or the module to one dtype"
        )
