"""Write rotation by complex numbers in real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import aten, calls, derived, is_call, operands, replace

if TYPE_CHECKING:
    from torch.fx import GraphModule


class MatchComplexRotary(GraphPass):
    """Pairs of neighbours are turned without complex numbers, which few back ends compile.

    Before:
        view_as_real(view_as_complex(x) * turn), x [..., D / 2, 2]
    After:
        stack((x0 * re - x1 * im, x0 * im + x1 * re), -1), re and im those of turn
    """

    name = "match_complex_rotary"
    stage = Stage.CANONICALISE
    optional = True
    after = ("remove_noops",)

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        matched = 0
        for site in calls(module, aten.view_as_real.default):
            found = _turned(site.args[0])
            if found is not None:
                with module.graph.inserting_before(site):
                    replace(site, _in_reals(site, *found))
                matched += 1
        return matched


def _turned(product: object) -> tuple[Node, Node] | None:
    """The pairs and the complex table of a product of both."""
    if not is_call(product, aten.mul.Tensor):
        return None
    for pairs, turn in operands(product):
        if is_call(pairs, aten.view_as_complex.default) and isinstance(turn, Node):
            x = pairs.args[0]
            return (x, turn) if isinstance(x, Node) else None
    return None


def _in_reals(site: Node, pairs: Node, turn: Node) -> Node:
    parts = derived(site, aten.view_as_real.default, turn)
    x0, x1, real, imaginary = (
        derived(site, aten.select.int, source, -1, index)
        for source in (pairs, parts)
        for index in (0, 1)
    )
    products = [
        derived(site, aten.mul.Tensor, one, other)
        for one, other in ((x0, real), (x1, imaginary), (x0, imaginary), (x1, real))
    ]
    first = derived(site, aten.sub.Tensor, products[0], products[1])
    second = derived(site, aten.add.Tensor, products[2], products[3])
    return derived(site, aten.stack.default, [first, second], -1)
