"""What the pass does to a graph that it accepts; see also `_accepts` and `_refuses`."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import pytest
import torch
from graphs.passing import inputs, logits, operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy, llada

from dllmc.passes._graph import aten, calls
from dllmc.passes.positionalise import prove_rows_independent
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from torch.fx import GraphModule


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", ["llada-tiny", "llada-tiny-gqa"])
def test_a_llada_gathers_its_two_tables_once(layers: int, shape: str) -> None:
    graph, context = ready_for("positionalise", *llada(shape=shape, n_layers=layers))
    assert "aten.cos.default" in operators(graph)
    result = run_and_verify("positionalise", graph, context)
    assert result.matched == 2
    assert inputs(graph) == ["tokens", "positions"]
    assert operators(graph)["aten.index.Tensor"] == 2
    assert not {"aten.cos.default", "aten.arange.default"} & set(operators(graph))


def test_tables_hold_every_position_of_the_longest_canvas() -> None:
    module, spec = llada()
    graph, context = ready_for("positionalise", module, spec)
    run_and_verify("positionalise", graph, context)
    tables = {n: b.shape for n, b in graph.named_buffers() if n.startswith("table_")}
    assert set(tables.values()) == {(spec.max_length, 1, module.config.head_dim)}


def test_rows_may_be_any_positions_in_any_order() -> None:
    module, spec = llada()
    graph, context = ready_for("positionalise", module, spec)
    run_and_verify("positionalise", graph, context)
    tokens, far = torch.randint(0, 90, (1, 6)), torch.tensor([[200, 3, 77, 255, 0, 8]])
    shuffled = torch.tensor([4, 2, 0, 5, 1, 3])
    one, other = (logits(graph, tokens[:, o], far[:, o]) for o in (torch.arange(6), shuffled))
    torch.testing.assert_close(one[:, shuffled], other, rtol=0, atol=1e-11)


def test_every_dependent_node_knows_its_axes() -> None:
    graph, context = ready_for("positionalise", *llada())
    run_and_verify("positionalise", graph, context)
    for node in calls(graph, aten.linear.default, aten.embedding.default):
        assert (node.meta["batch_axis"], node.meta["sequence_axis"]) == (0, 1)
    (heads,) = {node.meta["sequence_axis"] for node in calls(graph, aten.transpose.int)} - {1}
    assert heads == 2


def broken(graph: GraphModule, by: str) -> GraphModule:
    """The graph with its last linear layer's input disturbed after the analysis."""
    last = calls(graph, aten.linear.default)[-1]
    with graph.graph.inserting_before(last):
        x = last.args[0]
        if by == "positions":
            moved = graph.graph.call_function(aten.roll.default, (x, [1], [1]))
        else:
            moved = graph.graph.call_function(aten.flip.default, (x, [0]))
        both = graph.graph.call_function(operator.add, (x, moved))
    last.update_arg(0, both)
    graph.recompile()
    return graph


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("positions", "changing one token changes other rows"),
        ("sequences", "in a batch than alone"),
    ],
)
def test_the_second_proof_finds_what_mixes(by: str, message: str) -> None:
    graph, context = ready_for("positionalise", Toy(), SPEC)
    run_and_verify("positionalise", graph, context)
    prove_rows_independent(graph)
    with pytest.raises(NotPositionWiseError, match=message):
        prove_rows_independent(broken(graph, by))
