"""Recognise attention that is written out as products around a softmax."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dllmc.passes._attention_dtype import attention_dtype, cast, keep_narrow
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    argument,
    aten,
    calls,
    casts_to,
    derived,
    dtype_of,
    expression,
    is_call,
    replace,
    value_of,
)
from dllmc.passes._products import (
    Product,
    arranged,
    permuted,
    product_of,
    renamed,
    with_batch_apart,
)
from dllmc.passes._score_masks import mask_of, masks_fit
from dllmc.passes._scores import VIEWS, Scores, scores_of
from dllmc.passes.match_attention import SDPA
from dllmc.passes.remove_noops import is_assertion, is_identity

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

# What `scaled_dot_product_attention` calls; some code calls them by itself.
_FUSED = (
    aten._scaled_dot_product_attention_math.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
)
_SOFTMAX = (aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)


class _Roles(NamedTuple):
    """Letters of attention: what the axes of scores are."""

    batch: str
    shared: str
    grouped: str
    query: str
    key: str
    width: str
    value: str


class _Site(NamedTuple):
    root: Node
    scores: Scores
    queries: Product
    values: Product
    roles: _Roles


class MatchEagerAttention(GraphPass):
    """Attention by hand becomes torch's call, which `match_attention` reads.

    Before:
        matmul(softmax(matmul(q, transpose(k)) * scale + mask, -1), v)
        einsum("bhqk,bkhd->bqhd", softmax(einsum("bqhd,bkhd->bhqk", q, k)), v)
        _scaled_dot_product_flash_attention(q, k, v)[0]
    After:
        scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale) of [B, H, T, D]

    Batch and heads may be one axis, as `bmm` wants them; the factor may stand on the scores or
    on q, and the softmax may be taken in float32. What was widened from half precision for the
    products stays in half precision, whose sums torch's attention takes in float32 too.

    Where something else is done to scores or weights, they stay as they are, and the
    sequence-axis analysis refuses them.
    """

    name = "match_eager_attention"
    stage = Stage.CANONICALISE
    optional = True
    after = ("remove_noops",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        sites = _sites(module)
        for site in sites:
            with module.graph.inserting_before(site.root):
                replace(site.root, _attention(site))
        fused = _fused_calls(module)
        for call, result in fused:
            with module.graph.inserting_before(result):
                replace(result, _plain_call(call, result))
        for call in calls(module, SDPA):
            keep_narrow(call)
        return len(sites) + len(fused)


def count_attention(module: GraphModule) -> int:
    """Attention calls of a graph: torch's, and those that this pass would make torch's."""
    return len(calls(module, SDPA)) + len(_sites(module)) + len(_fused_calls(module))


def _fused_calls(module: GraphModule) -> list[tuple[Node, Node]]:
    """Calls of torch's own implementations of which nothing but the output is read."""
    found = []
    for call in calls(module, *_FUSED):
        readers = list(call.users)
        if len(readers) == 1 and is_call(readers[0], operator.getitem) and readers[0].args[1] == 0:
            found.append((call, readers[0]))
    return found


def _plain_call(call: Node, result: Node) -> Node:
    assert isinstance(call.target, torch._ops.OpOverload)
    named = {parameter.name for parameter in call.target._schema.arguments}
    given = [argument(call, name) for name in ("query", "key", "value")]
    masks = [argument(call, name) for name in ("attn_mask", "attn_bias") if name in named]
    others = [argument(call, name) for name in ("dropout_p", "is_causal")]
    grouped = "enable_gqa" in named and argument(call, "enable_gqa")
    mask = masks[0] if masks else None
    scale = argument(call, "scale")
    return derived(result, SDPA, *given, mask, *others, scale=scale, enable_gqa=grouped)


def _sites(module: GraphModule) -> list[_Site]:
    tokens = next(node for node in module.graph.nodes if node.op == "placeholder")
    batch, length = (expression(size) for size in value_of(tokens).shape)
    found = (_site(node, batch, length) for node in calls(module, *_SOFTMAX))
    return [site for site in found if site is not None]


def _site(softmax: Node, batch: Any, length: Any) -> _Site | None:
    if argument(softmax, "dim") not in (-1, value_of(softmax).dim() - 1):
        return None
    scores, root = scores_of(softmax.args[0]), _product_with_values(softmax)
    if scores is None or root is None:
        return None
    products = [
        with_batch_apart(product, batch)
        for product in (product_of(scores.product), product_of(root[0]))
        if product is not None
    ]
    queries, values = products
    if queries is None or values is None:
        return None
    if root[1] == 1:
        values = values._replace(left=values.right, right=values.left)
    names = _same_axes(queries, values)
    if names is None:
        return None
    values = renamed(values, names)
    if queries.letters[-1] in queries.left.letters:
        queries = queries._replace(left=queries.right, right=queries.left)
    roles = _roles(queries, values, batch, length)
    if roles is None or not masks_fit(scores, queries, roles.batch + roles.shared + roles.grouped):
        return None
    return _Site(root[0], scores, queries, values, roles)


def _product_with_values(softmax: Node) -> tuple[Node, int] | None:
    """The product that reads the weights, and which of its operands they are."""
    node = softmax
    while True:
        readers = [user for user in node.users if not is_assertion(user)]
        if len(readers) != 1:
            return None
        reader = readers[0]
        product = product_of(reader)
        if product is not None:
            sides = [product.left.node, product.right.node]
            return (reader, sides.index(node)) if node in sides else None
        if not (is_identity(reader) or casts_to(reader) is not None or is_call(reader, *VIEWS)):
            return None
        node = reader


def _same_axes(queries: Product, values: Product) -> dict[str, str] | None:
    """New letters for `values`, whose left operand are the scores' axes in their order."""
    if len(values.left.letters) != len(queries.letters) or "." in values.left.letters:
        return None
    names = dict(zip(values.left.letters, queries.letters, strict=True))
    free = iter("nopqrstuvw".upper())
    for letter in values.right.letters + values.letters:
        if letter != "." and letter not in names:
            names[letter] = next(free)
    sizes, others = queries.sizes(), values.left.sizes()
    if any(sizes[names[letter]] != size for letter, size in others.items()):
        return None
    return names


def _roles(queries: Product, values: Product, batch: Any, length: Any) -> _Roles | None:
    """What each letter is, or None if this is not attention."""
    left, right = set(queries.left.letters) - {"."}, set(queries.right.letters) - {"."}
    out, sizes = queries.letters, queries.sizes()
    key = out[-1]
    both = [letter for letter in out if letter in left and letter in right]
    batches = [letter for letter in both if sizes[letter] == batch]
    own = [letter for letter in out if letter in left and letter not in right]
    asking = [letter for letter in own if sizes[letter] == length]
    widths = (left & right) - set(out)
    given = set(values.right.letters) - {"."}
    wide = given - set(out)
    if [len(found) for found in (batches, asking, widths, wide)] != [1, 1, 1, 1]:
        return None
    value = wide.pop()
    shared = "".join(letter for letter in both if letter not in batches)
    grouped = "".join(letter for letter in own if letter not in asking)
    exact = (
        sizes[key] == length
        and right == {*both, key, *widths}
        and left == {*both, *own, *widths}
        and given == {*both, key, value}
        and set(values.letters) == {*both, *own, value}
    )
    if not exact:
        return None
    return _Roles(batches[0], shared, grouped, asking[0], key, widths.pop(), value)


def _attention(site: _Site) -> Node:
    roles, root = site.roles, site.root
    heads = roles.shared + roles.grouped
    q = arranged(site.queries.left, (roles.batch, heads, roles.query, roles.width), root)
    k = arranged(site.queries.right, (roles.batch, roles.shared, roles.key, roles.width), root)
    v = arranged(site.values.right, (roles.batch, roles.shared, roles.key, roles.value), root)
    for scale in site.scores.scales:
        q = derived(root, aten.mul.Tensor, q, scale)
    dtype = attention_dtype(q, k, v)
    q, k, v = (cast(node, dtype, root) for node in (q, k, v))
    mask = mask_of(site.scores, site.queries, dtype, root)
    y = derived(
        root, SDPA, q, k, v, mask, 0.0, False,
        scale=site.scores.factor, enable_gqa=bool(roles.grouped),
    )  # fmt: skip
    return cast(_laid_out(y, site, heads), dtype_of(root), root)


def _laid_out(y: Node, site: _Site, heads: str) -> Node:
    """`y` `[B, H, T, E]` with the axes that the product has."""
    roles, root, sizes = site.roles, site.root, site.queries.sizes()
    if not heads:
        y = derived(root, aten.squeeze.dim, y, 1)
    elif len(heads) > 1:
        y = derived(root, aten.unflatten.int, y, 1, [int(sizes[letter]) for letter in heads])
    now = roles.batch + heads + roles.query + roles.value
    y = permuted(y, [now.index(letter) for letter in site.values.letters], root)
    split = site.values.left.split
    if split:
        axis = site.values.letters.index(split)
        y = derived(root, aten.flatten.using_ints, y, axis, axis + 1)
    return y
