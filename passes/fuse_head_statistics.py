"""Join the head with the statistics that decoding needs; logits never leave the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import argument, aten, casts_to, is_call, item, output_of
from dllmc.spec import PassError

if TYPE_CHECKING:
    from torch.fx import GraphModule


class FuseHeadStatistics(GraphPass):
    """Before: `return linear(x, weight, bias)`.

    After: `return head_statistics(x, weight, bias, mask_id)`, a triple of candidate ids, their
    logits and tail masses, each `[B, R]`.

    Logits that are no linear head's own, because they are scaled, soft-capped or cut to the
    vocabulary, become `statistics(logits, mask_id)`.
    """

    name = "fuse_head_statistics"
    stage = Stage.SPECIALISE
    after = ("narrow_head_rows",)

    def expected(self, context: PassContext) -> int:
        del context
        return 1

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        output = output_of(module)
        logits = _single(output.args[0])
        while casts_to(logits) is not None:
            logits = argument(logits, "self")
        with module.graph.inserting_before(output):
            if is_call(logits, aten.linear.default):
                given = [argument(logits, name) for name in ("input", "weight", "bias")]
                operator = canonical("head_statistics")
            else:
                given, operator = [_single(output.args[0])], canonical("statistics")
            fused = module.graph.call_function(operator, (*given, context.spec.mask_id))
            parts = tuple(item(fused, index) for index in range(3))
        output.args = (parts,)
        return 1


def _single(value: object) -> Node:
    while isinstance(value, list | tuple):
        if len(value) != 1:
            raise PassError(f"the module returns {len(value)} values; return the logits alone")
        value = value[0]
    assert isinstance(value, Node)
    return value
