from __future__ import annotations

import torch
from graphs.passing import inputs, operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy, llada
from torch import Tensor

from dllmc.kernels import canonical
from dllmc.passes._graph import calls


def test_the_variant_draws_with_counters_of_each_row() -> None:
    graph, context = ready_for("sample_candidates", *llada())
    before = inputs(graph)
    result = run_and_verify("sample_candidates", graph, context)
    assert (result.matched, result.expected) == (1, 1)
    assert inputs(graph) == [*before, "temperature", "seed", "stream", "nfe"]
    assert "dllmc.head_statistics.default" not in operators(graph)
    (site,) = calls(graph, canonical("sampled_head_statistics"))
    rows = site.args[7]
    assert isinstance(rows, torch.fx.Node)
    assert rows.target is canonical("gather_rows")
    assert [str(source) for source in rows.args[:2]] == ["positions", "head_rows"]


def test_logits_that_are_more_than_a_heads_are_drawn_from_too() -> None:
    class Scaled(Toy):
        def finish(self, x: Tensor, tokens: Tensor) -> Tensor:
            return self.head(x) * 0.25

    graph, context = ready_for("sample_candidates", Scaled(), SPEC)
    assert run_and_verify("sample_candidates", graph, context).matched == 1
    assert len(calls(graph, canonical("sampled_statistics"))) == 1
    assert "dllmc.statistics.default" not in operators(graph)
