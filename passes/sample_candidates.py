"""Draw candidates at a temperature instead of taking the arg-max."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import add_placeholder, calls, placeholder, replace

if TYPE_CHECKING:
    from torch.fx import GraphModule


_STATISTICS = ("head_statistics", "statistics")


class SampleCandidates(GraphPass):
    """The variant of the graph for `StepPlan.statistics` = `sampled`.

    Before:
        head_statistics(x, weight, bias, mask_id)
    After:
        inputs temperature[B], seed[B], stream[B], nfe[B]
        sampled_head_statistics(x, weight, bias, mask_id, temperature, seed, stream,
                                positions at head_rows, nfe)

    and `sampled_statistics` for `statistics` alike.
    """

    name = "sample_candidates"
    stage = Stage.VARIANT
    variant = "sampled"

    def expected(self, context: PassContext) -> int:
        del context
        return 1

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        sites = [(name, site) for name in _STATISTICS for site in calls(module, canonical(name))]
        for name, site in sites:
            temperature, seed, stream, nfe = (
                add_placeholder(module, name) for name in ("temperature", "seed", "stream", "nfe")
            )
            rows = (placeholder(module, "positions"), placeholder(module, "head_rows"), 1)
            with module.graph.inserting_before(site):
                positions = module.graph.call_function(canonical("gather_rows"), rows)
                new = module.graph.call_function(
                    canonical(f"sampled_{name}"),
                    (*site.args, temperature, seed, stream, positions, nfe),
                )
            replace(site, new)
        return len(sites)
