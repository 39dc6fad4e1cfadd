from __future__ import annotations

import pytest
from graphs.passing import operators, ready_for, run_and_verify
from graphs.toys import llada

from dllmc.kernels import canonical, canonical_names
from dllmc.passes._graph import calls
from dllmc.passes.lower_operators import LowerOperators, LowerOperatorsConfig
from dllmc.spec import PassError


def test_no_canonical_operator_is_left() -> None:
    graph, context = ready_for("lower_operators", *llada())
    result = run_and_verify("lower_operators", graph, context)
    found = operators(graph)
    assert not calls(graph, *(canonical(name) for name in canonical_names()))
    assert result.matched == sum(n for name, n in found.items() if name.startswith("dllmc."))
    assert found["dllmc.cached_attention.torch"] == 2
    assert found["dllmc.linear.torch"] == 9
    assert "aten.linear.default" not in found


def test_an_implementation_may_be_chosen() -> None:
    graph, context = ready_for("lower_operators", *llada())
    config = LowerOperatorsConfig(implementations={"linear": "onednn"})
    LowerOperators(config).run(graph, context)
    assert operators(graph)["dllmc.linear.onednn"] == 9
    assert operators(graph)["dllmc.sampled_head_statistics.torch"] == 1


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"rms_nrom": "torch"}, "no operator `rms_nrom`; did you mean `rms_norm`"),
        ({"rms_norm": "tritn"}, "`rms_norm` has no implementation `tritn`; known: torch"),
    ],
)
def test_unknown_names_are_refused(chosen: dict[str, str], message: str) -> None:
    graph, context = ready_for("lower_operators", *llada())
    with pytest.raises(PassError, match=message):
        LowerOperators(LowerOperatorsConfig(implementations=chosen)).run(graph, context)
