from __future__ import annotations

import pytest
import torch
from graphs.passing import inputs, logits, operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy, llada

from dllmc.kernels import canonical
from dllmc.passes._graph import aten, calls

GATHER = "dllmc.gather_rows.default"


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", ["llada-tiny", "llada-tiny-gqa"])
def test_rows_are_gathered_where_only_the_head_reads_on(layers: int, shape: str) -> None:
    graph, context = ready_for("narrow_head_rows", *llada(shape=shape, n_layers=layers))
    result = run_and_verify("narrow_head_rows", graph, context)
    assert (result.matched, result.expected) == (1, 1)
    assert inputs(graph) == ["tokens", "positions", "head_rows"]
    # The residual stream, the normed input of Q, cosine and sine.
    assert operators(graph)[GATHER] == 4


def test_the_last_layer_computes_few_rows_but_for_k_and_v() -> None:
    graph, context = ready_for("narrow_head_rows", *llada())
    run_and_verify("narrow_head_rows", graph, context)
    rows: list[int] = []

    class Recorder(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            if n.target is aten.linear.default:
                rows.append(result.shape[1])
            return result

    order = torch.arange(9).expand(2, 9)
    (found,) = Recorder(graph).run(torch.zeros_like(order), order, order[:, :3])
    assert found.shape == (2, 3, 96)
    # Q K V out gate up down of both layers, and the head.
    assert rows == [9] * 7 + [3, 9, 9, 3, 3, 3, 3] + [3]


def test_rows_may_be_picked_in_any_order_and_twice() -> None:
    module, spec = llada()
    graph, context = ready_for("narrow_head_rows", module, spec)
    plain = module(tokens := torch.randint(0, 90, (2, 8)))
    run_and_verify("narrow_head_rows", graph, context)
    rows = torch.tensor([[7, 0, 0], [3, 5, 1]])
    found = logits(graph, tokens, torch.arange(8).expand(2, 8), rows)
    for sequence in range(2):
        expected = plain[sequence][rows[sequence]]
        torch.testing.assert_close(found[sequence], expected, rtol=0, atol=1e-10)


def test_k_and_v_are_never_narrowed() -> None:
    graph, context = ready_for("narrow_head_rows", Toy(), SPEC)
    run_and_verify("narrow_head_rows", graph, context)
    gathered = set(calls(graph, canonical("gather_rows")))
    for site in calls(graph, canonical("attention")):
        assert not gathered & set(site.args[1:3])
