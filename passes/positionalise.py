"""Make positions an input: prove the graph position-wise, and gather its position tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node

from dllmc.kernels import canonical
from dllmc.passes._base import GraphPass, PassContext, Stage
from dllmc.passes._graph import (
    add_buffer,
    add_placeholder,
    aten,
    first_after_placeholders,
    get_tensor,
    placeholder,
    value_of,
    where,
)
from dllmc.passes._sequence import SequenceAxes, analyse
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from torch.fx import GraphModule

# Two lengths at which a table must agree on what it holds for the first positions; odd and
# coprime, so that no scaling by the length can hide.
_SHORT, _LONG = 7, 11


class Positionalise(GraphPass):
    """A row's computation then depends on its token and its position, not on where it stands.

    Before:
        f(tokens[B, T]); cos, sin = table(arange(T)); y = rotary(q, cos, sin)
    After:
        f(tokens[B, W], positions[B, W]); y = rotary(q, cos_table[positions], ...)

    Two proofs: the sequence-axis analysis of `_sequence.py`, and an execution in which, with
    the outputs of attention held fixed, changing one token changes no other row.

    Raises:
        NotPositionWiseError: Something outside attention mixes positions, or a table depends on
            the length of the canvas.
    """

    name = "positionalise"
    stage = Stage.POSITIONALISE

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        tokens = next(node for node in module.graph.nodes if node.op == "placeholder")
        axes = analyse(module.graph, tokens)
        prove_rows_independent(module)
        positions = add_placeholder(module, "positions")
        gathered: dict[tuple[Node, int, int], Node] = {}
        for consumer, table in axes.meetings:
            rank = _consumer_rank(consumer)
            axis = axes.tables[table] + rank - value_of(table).dim()
            key = (table, rank, axis)
            if key not in gathered:
                gathered[key] = _gather(module, table, rank, axis, positions, context, axes)
            consumer.replace_input_with(table, gathered[key])
        for node, axis in axes.axis.items():
            node.meta["sequence_axis"] = axis
        for (_, _, axis), node in gathered.items():
            node.meta["sequence_axis"] = axis
        return len(gathered)


def _consumer_rank(consumer: Node) -> int:
    return int(value_of(consumer).dim())


def _gather(
    module: GraphModule,
    table: Node,
    rank: int,
    axis: int,
    positions: Node,
    context: PassContext,
    axes: SequenceAxes,
) -> Node:
    """`table` at `positions`, shaped for a consumer of `rank` with its sequence on `axis`."""
    values = _evaluate(module, table, context.spec.max_length)
    for length in (_SHORT, _LONG):
        if length <= context.spec.max_length:
            prefix = values.narrow(axes.tables[table], 0, length)
            if not torch.equal(_evaluate(module, table, length), prefix):
                raise NotPositionWiseError(
                    f"the table {where(table)} changes with the canvas length; a partial "
                    "evaluation has no single length"
                )
    values = values.reshape([1] * (rank - values.dim()) + list(values.shape))
    if values.shape[0] != 1:
        raise NotPositionWiseError(f"{where(table)} differs between sequences of a batch")
    rows = values.select(0, 0).movedim(axis - 1, 0).contiguous()
    before = first_after_placeholders(module)
    constant = add_buffer(module, f"table_{table.name}", rows, before)
    with module.graph.inserting_before(before):
        picked = module.graph.call_function(aten.index.Tensor, (constant, [positions]))
        order = [0, *range(2, axis + 1), 1, *range(axis + 1, rank)]
        return module.graph.call_function(aten.permute.default, (picked, order))


def _evaluate(module: GraphModule, table: Node, length: int) -> torch.Tensor:
    """The table for one sequence of `length`."""
    known: dict[Node, Any] = {}

    def run(node: Node) -> Any:
        if node in known:
            return known[node]
        if node.op == "get_attr":
            known[node] = get_tensor(module, node)
        elif node.op == "placeholder":
            known[node] = torch.zeros(1, length, dtype=torch.int64)
        else:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), run)
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return known[node]

    with torch.no_grad():
        result = run(table)
    assert isinstance(result, torch.Tensor)
    return result


class _HeldAttention(Interpreter):
    """Runs a graph; the outputs of attention are recorded once and then repeated."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.held: dict[Node, torch.Tensor] = {}

    def run_node(self, n: Node) -> Any:
        if n in self.held:
            return self.held[n]
        result = super().run_node(n)
        if n.target is canonical("attention"):
            self.held[n] = result
        return result


def prove_rows_independent(module: GraphModule) -> None:
    """With attention held fixed, changing one token must change no other row of the output.

    Raises:
        NotPositionWiseError: It does.
    """
    # Ids under 2 exist in every vocabulary, so that the check needs nothing of the model.
    tokens = torch.arange(2 * _SHORT).reshape(2, _SHORT) % 2
    changed = tokens.clone()
    row = _SHORT // 2
    changed[:, row] = 1 - changed[:, row]
    runner = _HeldAttention(module)
    with torch.no_grad():
        before, after = (_tensor(runner.run(given)) for given in (tokens, changed))
    others = [i for i in range(_SHORT) if i != row]
    # Matrix products may round differently for other rows' sake, never by more than this.
    if not torch.allclose(before[:, others], after[:, others], rtol=1e-4, atol=1e-5):
        raise NotPositionWiseError(
            "changing one token changes other rows although attention is held fixed: something "
            "outside attention mixes positions"
        )


def _tensor(result: Any) -> torch.Tensor:
    while isinstance(result, list | tuple):
        result = result[0]
    assert isinstance(result, torch.Tensor)
    return result
