"""Evaluate rows for their keys and values alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import argument, calls, output_of, placeholder

if TYPE_CHECKING:
    from torch.fx import GraphModule


class SkipStatistics(GraphPass):
    """The variant of the graph for `StepPlan.statistics` = `none`: it only fills caches.

    Before:
        y = cached_attention(q, k, v, keys_l, values_l, slots, key_limit, scale)
        return head_statistics(mlp(y), weight, bias, mask_id)
    After:
        write_cache(k, v, keys_l, values_l, slots)
        return ()

    Of the last layer nothing but its keys and values is left.
    """

    name = "skip_statistics"
    stage = Stage.VARIANT
    variant = "none"

    def expected(self, context: PassContext) -> int:
        del context
        return 1

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        output_of(module).args = ((),)
        module.graph.eliminate_dead_code()
        unread = [s for s in calls(module, canonical("cached_attention")) if not s.users]
        for site in unread:
            names = ("k", "v", "keys", "values", "slots")
            with module.graph.inserting_before(site):
                module.graph.call_function(
                    canonical("write_cache"), tuple(argument(site, name) for name in names)
                )
            module.graph.erase_node(site)
        module.graph.eliminate_dead_code()
        module.graph.erase_node(placeholder(module, "head_rows"))
        return len(unread)
