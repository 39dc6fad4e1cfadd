from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from graphs.passing import operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy, llada
from torch import nn

from dllmc.passes._graph import aten, calls, get_tensor

if TYPE_CHECKING:
    from torch import Tensor


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"include_qkv_bias": True}], ids=str)
def test_two_groups_of_every_layer_of_a_llada(layers: int, changes: dict[str, object]) -> None:
    module, spec = llada(n_layers=layers, **changes)
    graph, context = ready_for("merge_projections", module, spec)
    before = operators(graph)["aten.linear.default"]
    result = run_and_verify("merge_projections", graph, context)
    assert (result.matched, result.expected) == (2 * layers, 2 * layers)
    # Q K V and gate up become one each, but in the last layer Q stays alone.
    assert before - operators(graph)["aten.linear.default"] == 3 * layers - 1
    assert operators(graph)["aten.split_with_sizes.default"] == 2 * layers


def test_the_merged_weight_is_the_weights_one_below_the_other() -> None:
    module, spec = llada(n_layers=2, n_kv_heads=2)
    graph, context = ready_for("merge_projections", module, spec)
    run_and_verify("merge_projections", graph, context)
    shapes = [
        tuple(get_tensor(graph, node.args[1]).shape)  # type: ignore[arg-type]
        for node in calls(graph, aten.linear.default)
    ]
    first = [(32 + 16 + 16, 32), (32, 32), (64 + 64, 32), (32, 64)]
    last = [(32, 32), (16 + 16, 32), (32, 32), (64 + 64, 32), (32, 64)]
    assert shapes == first + last


def test_what_was_merged_is_not_kept() -> None:
    module, spec = llada()
    graph, context = ready_for("merge_projections", module, spec)
    run_and_verify("merge_projections", graph, context)
    kept = {name for name, _ in graph.named_parameters()}
    assert not {name for name in kept if "k_proj" in name or "up_proj" in name}
    assert {name for name in kept if "attn_out" in name}


def test_layers_with_and_without_bias_do_not_merge() -> None:
    class Mixed(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.plain = nn.ModuleList(nn.Linear(16, 32, bias=False) for _ in range(2)).double()

        def feed(self, x: Tensor, layer: int) -> Tensor:
            return self.down[layer](self.up[layer](x) * self.plain[layer](x))

    graph, context = ready_for("merge_projections", Mixed(), SPEC)
    result = run_and_verify("merge_projections", graph, context)
    assert (result.matched, result.skipped_because) == (0, "nothing to match")
