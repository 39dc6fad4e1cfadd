"""Make positions an input: prove the graph position-wise, and gather its position tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    add_buffer,
    add_placeholder,
    aten,
    calls,
    device_of,
    first_after_placeholders,
    replace,
    value_of,
)
from dllmc.passes._sequence import SequenceAxes, analyse
from dllmc.passes._tables import constant_value, table_values
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

# Odd, so that no row stands where its mirror image does.
_PROOF_LENGTH = 7


class Positionalise(GraphPass):
    """A row's computation then depends on its token and its position, not on where it stands.

    Before:
        f(tokens[B, T]); cos, sin = table(arange(T)); y = rotary(q, cos, sin)
    After:
        f(tokens[B, W], positions[B, W]); y = rotary(q, cos_table[positions], ...)

    What attention is told of its rows, `row_positions(tokens)`, becomes `positions` too.

    Two proofs: the sequence-axis analysis of `_sequence.py`, and an execution in which, with
    the outputs of attention held fixed, changing one token changes no other row, and a sequence
    computes in a batch what it computes alone.

    Raises:
        NotPositionWiseError: Something outside attention mixes positions or sequences, or a
            table depends on the length of the canvas.
    """

    name = "positionalise"
    stage = Stage.POSITIONALISE

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        tokens = next(node for node in module.graph.nodes if node.op == "placeholder")
        axes = analyse(module.graph, tokens)
        longest = context.spec.max_length
        _fold_constants(module, axes, longest)
        positions = add_placeholder(module, "positions")
        gathered: dict[tuple[Node, int, int, int], Node] = {}
        tables: set[Node] = set()
        for consumer, table in axes.meetings:
            place = (int(value_of(consumer).dim()), axes.batch_axis[consumer], axes.axis[consumer])
            if (table, *place) not in gathered:
                values = table_values(module, table, axes.tables[table], longest)
                gathered[table, *place] = _gather(module, table, values, *place, positions)
            consumer.replace_input_with(table, gathered[table, *place])
            tables.add(table)
        for node in calls(module, canonical("row_positions")):
            node.replace_all_uses_with(positions)
        for node in axes.axis:
            node.meta["sequence_axis"] = axes.axis[node]
            node.meta["batch_axis"] = axes.batch_axis[node]
        positions.meta["sequence_axis"], positions.meta["batch_axis"] = 1, 0
        for (_, _, batch_axis, axis), node in gathered.items():
            node.meta["sequence_axis"], node.meta["batch_axis"] = axis, batch_axis
            picked = node.all_input_nodes[0]
            picked.meta["sequence_axis"], picked.meta["batch_axis"] = 1, 0
        module.graph.eliminate_dead_code()
        module.recompile()
        prove_rows_independent(module, min(_PROOF_LENGTH, longest))
        return len(tables)


def _fold_constants(module: GraphModule, axes: SequenceAxes, max_length: int) -> None:
    for node in dict.fromkeys(axes.constants):
        value = constant_value(module, node, max_length)
        if value is not None:
            replace(node, add_buffer(module, f"constant_{node.name}", value, node))


def _gather(
    module: GraphModule,
    table: Node,
    values: Tensor,
    rank: int,
    batch_axis: int,
    axis: int,
    positions: Node,
) -> Node:
    """`values` at `positions`, shaped for a consumer of `rank` with batch and sequence there."""
    values = values.reshape([1] * (rank - values.dim()) + list(values.shape))
    rows = values.select(batch_axis, 0).movedim(axis - (batch_axis < axis), 0).contiguous()
    before = first_after_placeholders(module)
    constant = add_buffer(module, f"table_{table.name}", rows, before)
    others = iter(range(2, rank))
    order = [0 if i == batch_axis else 1 if i == axis else next(others) for i in range(rank)]
    with module.graph.inserting_before(before):
        picked = module.graph.call_function(aten.index.Tensor, (constant, [positions]))
        return module.graph.call_function(aten.permute.default, (picked, order))


class _HeldAttention(Interpreter):
    """Runs a graph; the outputs of attention are recorded once and then repeated."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.held: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n in self.held:
            return self.held[n]
        result = super().run_node(n)
        if n.target is canonical("attention"):
            self.held[n] = result
        return result


def prove_rows_independent(module: GraphModule, length: int = _PROOF_LENGTH) -> None:
    """Run a graph of tokens and positions, and look for what must not be.

    Args:
        module: The graph, `tokens` and `positions` `[B, W]` -> logits `[B, W, V]`.
        length: Rows to run.

    Raises:
        NotPositionWiseError: With attention held fixed, changing one token changes another row;
            or a sequence computes something else in a batch than alone.
    """
    device = device_of(module)
    # Ids under 2 exist in every vocabulary, so that the check needs nothing of the model.
    order = torch.arange(length, device=device)
    one, other, third = order % 2, order // 2 % 2, order // 3 % 2
    # One sequence twice, in places that no mirror or rotation of the batch exchanges.
    tokens = torch.stack((one, one, other, third))
    positions = order.expand_as(tokens)
    changed = tokens.clone()
    row = length // 2
    changed[:, row] = 1 - changed[:, row]
    runner = _HeldAttention(module)
    with torch.no_grad():
        before, after = (_tensor(runner.run(given, positions)) for given in (tokens, changed))
        alone = _tensor(Interpreter(module).run(tokens[:1], positions[:1]))
    others = [i for i in range(length) if i != row]
    if not _close(before[:, others], after[:, others]):
        raise NotPositionWiseError(
            "changing one token changes other rows although attention is held fixed: something "
            "outside attention mixes positions"
        )
    if not (_close(before[:1], alone) and _close(before[1:2], alone)):
        raise NotPositionWiseError(
            "a sequence computes something else in a batch than alone: something mixes sequences"
        )


def _close(one: Tensor, other: Tensor) -> bool:
    # Matrix products may round differently for other rows' sake, never by more than this.
    unit = torch.finfo(one.dtype).eps
    scale = max(1.0, other.abs().max().item())
    return bool(((one - other).abs() <= 128 * unit * scale).all())


def _tensor(result: Any) -> Tensor:
    while isinstance(result, list | tuple):
        result = result[0]
    assert isinstance(result, torch.Tensor)
    return result
