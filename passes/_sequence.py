"""Sequence-axis analysis: which axis of each tensor runs over positions, and proof that every
operation outside attention works on each position of each sequence alone.

The analysis walks the graph with a rule per operator (`_sequence_rules.py`). A tensor is
*token-dependent* if it follows from the tokens' values; its batch and sequence axes are then
known. What follows from the sizes of the input alone is a table if it has one entry per
position, else a number or a constant. An operator without a rule is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from dllmc.passes._graph import aten, expression, is_call, value_of, where
from dllmc.passes._sequence_refusals import mixes, no_rule
from dllmc.passes._sequence_rules import READS_SIZES, READS_TABLES, rule_of
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from torch.fx import Graph, Node

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool)
# These take no more than dtype and shape from their second argument.
_TAKES_A_FORM = (aten.type_as.default,)


@dataclass(slots=True)
class SequenceAxes:
    """What the analysis found.

    Attributes:
        batch: The symbol of the batch size, as an expression.
        length: The symbol of the sequence length, as an expression.
        axis: Sequence axis of every token-dependent tensor (of its parts, for lists).
        batch_axis: Batch axis of the same.
        sized: Token-independent nodes that follow from batch size or length.
        tables: Those of them that are tensors with a sequence axis, and that axis; -1 where
            the length enters their shape in another way.
        meetings: Token-dependent nodes that read a table, and the table.
        constants: Tensors that follow from the sizes without a sequence axis, and are read by
            token-dependent nodes.
    """

    batch: Any
    length: Any
    axis: dict[Node, int] = field(default_factory=dict)
    batch_axis: dict[Node, int] = field(default_factory=dict)
    sized: set[Node] = field(default_factory=set)
    tables: dict[Node, int] = field(default_factory=dict)
    meetings: list[tuple[Node, Node]] = field(default_factory=list)
    constants: list[Node] = field(default_factory=list)


def analyse(graph: Graph, tokens: Node) -> SequenceAxes:
    """Prove that the graph works on each position alone outside attention.

    Args:
        graph: With the values that torch.export recorded, canonicalised.
        tokens: The input, `[B, S]`.

    Raises:
        NotPositionWiseError: An operation mixes positions or sequences, has no rule, or uses a
            size as a number; the message names the node and its source line.
    """
    batch, length = (expression(size) for size in value_of(tokens).shape)
    found = SequenceAxes(batch, length)
    found.axis[tokens], found.batch_axis[tokens] = 1, 0
    for node in graph.nodes:
        # Masks of attention have two axes of positions; they are told apart where attention is
        # matched, and nothing else reads them.
        if node.op == "call_function" and "attention_mask" not in node.meta:
            _visit(node, found)
    return found


def _visit(node: Node, found: SequenceAxes) -> None:
    read = node.all_input_nodes[:1] if is_call(node, *_TAKES_A_FORM) else node.all_input_nodes
    if any(source in found.axis for source in read):
        if isinstance(value_of(node), _NUMBERS):
            _visit_number(node, found)
        else:
            _visit_dependent(node, found)
    elif isinstance(value_of(node), _NUMBERS):
        if any(source in found.sized for source in read) or _is_size(node, found):
            found.sized.add(node)
    elif any(source in found.sized for source in read):
        found.sized.add(node)
        _note_table(node, found)


def _visit_number(node: Node, found: SequenceAxes) -> None:
    if not is_call(node, aten.sym_size.int):
        _refuse(node, "makes a number of the tokens; a step is compiled before they are known")
    if _is_size(node, found):
        found.sized.add(node)


def _note_table(node: Node, found: SequenceAxes) -> None:
    value = value_of(node)
    if not isinstance(value, torch.Tensor):
        return
    axes = [axis for axis, size in enumerate(value.shape) if found.length in _symbols(size)]
    if len(axes) == 1 and expression(value.shape[axes[0]]) == found.length:
        found.tables[node] = axes[0]
    elif axes:
        found.tables[node] = -1


def _visit_dependent(node: Node, found: SequenceAxes) -> None:
    rule = rule_of(node)
    if rule is None:
        _refuse(node, no_rule(node))
    numbers = {n for n in node.all_input_nodes if n in found.sized and not _is_tensor(n)}
    if numbers and rule not in READS_SIZES:
        _refuse(
            node,
            "uses the batch size or the sequence length as a number; a partial evaluation would "
            "see another number",
        )
    axis = rule(node, found)
    if axis is None:
        _refuse(node, mixes(node, found))
    found.batch_axis[node] = _check_axes(node, axis, found)
    found.axis[node] = axis
    for source in node.all_input_nodes:
        if source in found.tables:
            if found.tables[source] < 0 or rule not in READS_TABLES:
                _refuse(node, f"meets {where(source)} in a way that cannot be indexed by position")
            found.meetings.append((node, source))
        elif source in found.sized and _is_tensor(source):
            found.constants.append(source)


def _check_axes(node: Node, axis: int, found: SequenceAxes) -> int:
    """The batch axis of `node`, once its shape agrees with what its rule says."""
    value = value_of(node)
    batch_axes = set()
    for part in value if isinstance(value, list | tuple) else [value]:
        sizes = [(i, expression(s), _symbols(s)) for i, s in enumerate(part.shape)]
        by_length = [i for i, _, symbols in sizes if found.length in symbols]
        by_batch = [i for i, _, symbols in sizes if found.batch in symbols]
        exact = {(i, size) for i, size, _ in sizes}
        if by_length != [axis] or (axis, found.length) not in exact:
            _refuse(node, f"has shape {list(part.shape)}, whose positions are not axis {axis}")
        if len(by_batch) != 1 or (by_batch[0], found.batch) not in exact:
            _refuse(node, f"has shape {list(part.shape)}, in which the batch is no axis")
        batch_axes.add(by_batch[0])
    return batch_axes.pop()


def _is_tensor(node: Node) -> bool:
    return isinstance(value_of(node), torch.Tensor)


def _is_size(node: Node, found: SequenceAxes) -> bool:
    return bool(_symbols(value_of(node)) & {found.batch, found.length})


def _symbols(size: Any) -> frozenset[Any]:
    return frozenset(getattr(expression(size), "free_symbols", ()))


def _refuse(node: Node, reason: str) -> NoReturn:
    raise NotPositionWiseError(f"{where(node)} {reason}")
