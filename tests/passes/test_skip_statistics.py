from __future__ import annotations

from graphs.passing import inputs, operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy, llada

from dllmc.passes._graph import output_of


def test_only_keys_and_values_are_left_of_the_last_layer() -> None:
    graph, context = ready_for("skip_statistics", *llada())
    before = operators(graph)
    layers = before["dllmc.cached_attention.default"]
    result = run_and_verify("skip_statistics", graph, context)
    assert (result.matched, result.expected) == (1, 1)
    after = operators(graph)
    assert after["dllmc.cached_attention.default"] == layers - 1
    assert after["dllmc.write_cache.default"] == 1
    assert "dllmc.head_statistics.default" not in after
    assert after["dllmc.swiglu.default"] == before["dllmc.swiglu.default"] - 1
    assert output_of(graph).args == ((),)


def test_head_rows_are_no_input_any_more() -> None:
    graph, context = ready_for("skip_statistics", Toy(), SPEC)
    before = inputs(graph)
    run_and_verify("skip_statistics", graph, context)
    assert inputs(graph) == [name for name in before if name != "head_rows"]
