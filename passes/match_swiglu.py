"""Recognise the gated activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import aten, calls, is_call, operands, replace

if TYPE_CHECKING:
    from torch.fx import GraphModule


class MatchSwiGLU(GraphPass):
    """Before: `silu(gate) * up`. After: `dllmc.swiglu(gate, up)`."""

    name = "match_swiglu"
    stage = Stage.CANONICALISE
    optional = True
    after = ("remove_noops",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        matched = 0
        for product in calls(module, aten.mul.Tensor):
            for activated, up in operands(product):
                if is_call(activated, aten.silu.default) and len(activated.users) == 1:
                    gate = activated.args[0]
                    with module.graph.inserting_before(product):
                        new = module.graph.call_function(canonical("swiglu"), (gate, up))
                    replace(product, new)
                    matched += 1
                    break
        return matched
