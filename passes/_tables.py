"""What a graph computes from the sizes of its input alone, and what must hold of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.fx.node import map_arg

from dllmc.passes._graph import device_of, get_tensor, value_of, where
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

# Two lengths at which a table must agree on what it holds for the first positions; odd and
# coprime, so that no scaling by the length can hide.
_LENGTHS = (7, 11)


def table_values(module: GraphModule, table: Node, axis: int, max_length: int) -> Tensor:
    """The table for one sequence of the longest canvas.

    Args:
        module: Whose graph computes it.
        table: A token-independent node.
        axis: Its sequence axis.
        max_length: Positions that it must have.

    Raises:
        NotPositionWiseError: What it holds for a position depends on the length, or on where a
            sequence stands in its batch, or it does not reach so far.
    """
    values = evaluate(module, table, 1, max_length)
    if values.shape[axis] != max_length:
        raise NotPositionWiseError(
            f"the table {where(table)} ends after {values.shape[axis]} of {max_length} "
            "positions; set the spec's `max_length` to what the model can do"
        )
    for length in _shorter(max_length):
        if not torch.equal(evaluate(module, table, 1, length), values.narrow(axis, 0, length)):
            raise NotPositionWiseError(
                f"the table {where(table)} changes with the canvas length; a partial evaluation "
                "has no single length"
            )
    _check_batch(module, table, values, max_length)
    return values


def constant_value(module: GraphModule, node: Node, max_length: int) -> Tensor | None:
    """The value of a node that has no sequence axis although it follows from the sizes.

    Returns:
        The value, or None if one of its axes is the batch and it has to stay in the graph.

    Raises:
        NotPositionWiseError: It depends on the length, or differs within the batch.
    """
    value = evaluate(module, node, 1, max_length)
    for length in _shorter(max_length):
        if not torch.equal(evaluate(module, node, 1, length), value):
            raise NotPositionWiseError(
                f"{where(node)} changes with the canvas length; a partial evaluation has no "
                "single length"
            )
    _check_batch(module, node, value, max_length)
    sized = any(isinstance(size, torch.SymInt) for size in value_of(node).shape)
    return None if sized else value


def _shorter(max_length: int) -> set[int]:
    return {min(length, max_length - 1) for length in _LENGTHS}


def _check_batch(module: GraphModule, node: Node, alone: Tensor, max_length: int) -> None:
    together = evaluate(module, node, 3, max_length)
    if not torch.equal(together, alone.expand_as(together)):
        raise NotPositionWiseError(
            f"{where(node)} depends on the batch, or differs between its sequences; a sequence "
            "must be computed as it is alone"
        )


def evaluate(module: GraphModule, node: Node, batch: int, length: int) -> Tensor:
    """What `node`, which follows from the sizes alone, is for such a canvas."""
    known: dict[Node, Any] = {}
    device = device_of(module)

    def run(source: Node) -> Any:
        if source not in known:
            if source.op == "get_attr":
                known[source] = get_tensor(module, source)
            elif source.op == "placeholder":
                known[source] = torch.zeros(batch, length, dtype=torch.int64, device=device)
            else:
                assert callable(source.target)
                args, kwargs = map_arg((source.args, source.kwargs), run)
                known[source] = source.target(*args, **kwargs)
        return known[source]

    try:
        with torch.no_grad():
            result = run(node)
    except (RuntimeError, IndexError) as error:
        raise NotPositionWiseError(
            f"{where(node)} cannot be computed for {batch} sequences of {length} positions "
            f"({str(error).splitlines()[0]}); set the spec's `max_length` to what the model can do"
        ) from error
    assert isinstance(result, torch.Tensor)
    return result
