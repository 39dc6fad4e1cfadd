"""Remove what computes nothing: assertions, conversions to the same dtype, copies, dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import argument, aten, casts_to, dtype_of, is_call

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

_ASSERTIONS = (
    aten._assert_tensor_metadata.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten.sym_constrain_range_for_size.default,
)
_IDENTITIES = (
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
)
_TO_THE_END = 2**63 - 1
# Views demand strides that a tensor may no longer have once copies are gone.
_VIEWS = (aten.view.default, aten._unsafe_view.default)


class RemoveNoops(GraphPass):
    """Before: `y = to(x, float32); z = contiguous(y); view(z)` with x float32.

    After: `reshape(x)`. Copies may go because no operator of the graph changes its input
    (`compiler/capture.py`).
    """

    name = "remove_noops"
    stage = Stage.CANONICALISE

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        del context
        removed = 0
        for node in list(module.graph.nodes):
            if is_assertion(node):
                module.graph.erase_node(node)
                removed += 1
            elif is_identity(node):
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
                removed += 1
            elif is_call(node, *_VIEWS):
                node.target = aten.reshape.default
        return removed


def is_assertion(node: Node) -> bool:
    """Whether a node checks something and computes nothing."""
    return is_call(node, *_ASSERTIONS)


def is_identity(node: Node) -> bool:
    """Whether a node gives what it is given."""
    if is_call(node, *_IDENTITIES):
        return True
    if is_call(node, aten.dropout.default):
        return argument(node, "p") == 0 or not argument(node, "train")
    if casts_to(node) is not None:
        return dtype_of(node) == dtype_of(node.args[0])
    if is_call(node, aten.slice.Tensor):
        start, end, step = (argument(node, name) for name in ("start", "end", "step"))
        return start in (None, 0) and end in (None, _TO_THE_END) and step == 1
    return False
