"""Recognise attention, and refuse what a denoiser must not have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dllmc.kernels import canonical
from dllmc.passes._attention_mask import Mask, follows_from_tokens, understand
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    add_buffer,
    argument,
    aten,
    calls,
    first_after_placeholders,
    placeholder,
    replace,
    value_of,
    where,
)
from dllmc.passes._grouped_heads import ungrouped
from dllmc.passes._token_mask import rebuild
from dllmc.spec import ConfigError, NotADenoiserError, NotPositionWiseError

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from dllmc.spec import DenoiserSpec

SDPA = aten.scaled_dot_product_attention.default


class MatchAttention(GraphPass):
    """Before: `scaled_dot_product_attention(q, repeat(k), repeat(v), mask)`.

    After: `dllmc.attention(q, k, v, scale)`, heads of k and v not repeated. A mask that hides
    nothing is dropped; a block-causal one becomes a limit per row,
    `attention(q, k, v, scale, limit, None, positions)`, and any other function of query and key
    position a table, `attention(q, k, v, scale, None, positions, positions, table)`. A mask that
    follows from the tokens, such as one that hides padding, is built anew as a function of
    queries and of `dllmc.held` keys. `positions` is `dllmc.row_positions(tokens)`.

    Where the blocks of the spec are counted from the response, the module sees everything and
    the limits are the decoder's: here they are put behind the last position.

    Raises:
        NotADenoiserError: The attention is causal and the model no auxiliary. Caching passes of
            other compilers make such mistakes silently and return wrong tokens.
        NotPositionWiseError: The attention has dropout, a mask that is no function of one query
            and one key, or other axes than batch, heads, positions and width.
        ConfigError: The spec says something else of the blocks than the mask does.
    """

    name = "match_attention"
    stage = Stage.CANONICALISE
    after = ("remove_noops", "match_eager_attention")

    def expected(self, context: PassContext) -> int:
        return context.layers

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        sites = calls(module, SDPA)
        if not sites:
            return 0
        masks = _Masks(module, context.spec)
        for site in sites:
            _check(site, context.spec)
            q, k, v = (argument(site, name) for name in ("query", "key", "value"))
            scale = argument(site, "scale")
            if scale is None:
                scale = 1 / math.sqrt(value_of(q).shape[-1])
            seen = masks.arguments(site)
            with module.graph.inserting_before(site):
                new = module.graph.call_function(
                    canonical("attention"), (q, *ungrouped(k, v, site), scale, *seen)
                )
            replace(site, new)
        return len(sites)


class _Masks:
    """The masks of a model, each understood once however many layers share it."""

    def __init__(self, module: GraphModule, spec: DenoiserSpec) -> None:
        self._module, self._spec = module, spec
        self._understood: dict[tuple[Node | None, bool], tuple[Node | None, ...]] = {}
        self._positions: Node | None = None

    def arguments(self, site: Node) -> tuple[Node | None, ...]:
        """What the attention at `site` is told of its rows: limits, positions, bias and mask."""
        given = argument(site, "attn_mask"), bool(argument(site, "is_causal"))
        if given not in self._understood:
            self._understood[given] = self._understand(site, *given)
        return self._understood[given]

    def _understand(self, site: Node, given: Node | None, causal: bool) -> tuple[Node | None, ...]:
        mask = Mask(block_length=1 if causal else None)
        if given is not None:
            if follows_from_tokens(given):
                return self._of_tokens(site, given)
            mask = understand(self._module, site, given, self._spec)
        self._check_blocks(site, mask)
        if self._spec.attention != "full":
            return self._limit(mask.block_length), None, self._rows(), None
        if mask.bias is None:
            return ()
        table = add_buffer(self._module, "attention_bias", mask.bias, self._rows().next)
        return None, self._rows(), self._rows(), table

    def _of_tokens(self, site: Node, given: Node) -> tuple[Node | None, ...]:
        if self._spec.attention != "full":
            raise NotPositionWiseError(
                f"{where(site)} has a mask that follows from the tokens, which hides the blocks "
                f"of {self._spec.attention} attention; leave padding out of the model"
            )
        mask = rebuild(self._module, site, given, self._rows(), self._spec.max_length)
        return None, None, None, None, mask

    def _check_blocks(self, site: Node, mask: Mask) -> None:
        spec = self._spec
        own = spec.attention != "full" and spec.blocks_from == "canvas"
        expected = spec.attention_block if own else None
        if mask.block_length == expected and (mask.bias is None or spec.attention == "full"):
            return
        found = (
            "sees blocks of " + str(mask.block_length)
            if mask.block_length
            else "sees every position"
            if mask.bias is None
            else "has a bias"
        )
        said = f"`attention`={spec.attention!r}"
        if own and spec.attention == "block_causal":
            said = f"`block_length`={expected}"
        if not own and spec.attention != "full":
            said += ", `blocks_from`='response', where the module itself sees everything"
        raise ConfigError(f"{where(site)} {found}, and the spec says {said}; make them agree")

    def _limit(self, block_length: int | None) -> Node:
        """The first position that a row does not see, `[B, T]`."""
        graph, rows = self._module.graph, self._rows()
        with graph.inserting_after(rows):
            if block_length is None:
                return self._like(rows, aten.full_like.default, (rows, self._spec.max_length))
            block = self._like(rows, aten.floor_divide.default, (rows, block_length))
        with graph.inserting_after(block):
            following = self._like(block, aten.add.Tensor, (block, 1))
        with graph.inserting_after(following):
            return self._like(following, aten.mul.Tensor, (following, block_length))

    def _rows(self) -> Node:
        if self._positions is None:
            tokens = placeholder(self._module, "tokens")
            with self._module.graph.inserting_before(first_after_placeholders(self._module)):
                self._positions = self._like(tokens, canonical("row_positions"), (tokens,))
        return self._positions

    def _like(self, like: Node, target: Any, args: tuple[Any, ...]) -> Node:
        """A call whose value has the form of `like`'s."""
        node = self._module.graph.call_function(target, args)
        node.meta["val"] = value_of(like)
        return node


def _check(site: Node, spec: DenoiserSpec) -> None:
    if argument(site, "is_causal") and spec.attention != "causal":
        raise NotADenoiserError(
            f"{where(site)} is causal; a denoiser's attention sees both directions. Only an "
            "auxiliary model (role='auxiliary') may be causal"
        )
    if argument(site, "dropout_p"):
        raise NotPositionWiseError(f"{where(site)} has dropout; put the module in eval mode")
    rank = value_of(site).dim()
    if rank != 4:
        raise NotPositionWiseError(
            f"{where(site)} has {rank} axes; give batch, heads, positions and width"
        )
