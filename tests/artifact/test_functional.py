from __future__ import annotations

import torch
from lockstep.drawn import SHAPES, compiled_model

from dllmc.artifact.functional import functional
from dllmc.runtime.programs.base import arguments, example_inputs
from dllmc.spec import StepPlan

PLAN = StepPlan(batch=3, rows=7, head_rows=5, slots=11)


def drawn_inputs() -> dict[str, torch.Tensor]:
    graph = compiled_model(SHAPES[1]).package.graphs["greedy"]
    inputs = example_inputs(graph, PLAN, torch.device("cpu"))
    inputs["tokens"] = torch.arange(21).reshape(3, 7)
    for name in inputs:
        if name.startswith(("keys_", "values_")):
            inputs[name] = torch.randn(inputs[name].shape)
    return inputs


def test_caches_come_out_as_they_would_have_been_written() -> None:
    graph = compiled_model(SHAPES[1]).package.graphs["greedy"]
    step, caches = functional(graph)
    inputs = drawn_inputs()
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    found = step(*arguments(step, inputs))
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name]), name
    expected = graph(*arguments(graph, inputs))
    assert caches == ["keys_0", "values_0", "keys_1", "values_1"]
    assert len(found) == len(expected) + len(caches)
    for a, b in zip(found, [*expected, *(inputs[name] for name in caches)], strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(inputs["keys_0"], before["keys_0"])


def test_operators_are_lowered_to_plain_torch_or_what_the_runtime_does_best() -> None:
    graph = compiled_model(SHAPES[1]).package.graphs["greedy"]
    step, _ = functional(graph, {"cached_attention": "full_mask"})
    ours = [node.target for node in step.graph.nodes if "dllmc." in str(node.target)]
    assert {str(target).rpartition(".")[2] for target in ours} == {"torch", "full_mask"}
    assert "full_mask" not in str(graph.graph)
    inputs = drawn_inputs()
    for a, b in zip(
        step(*arguments(step, inputs))[:3], graph(*arguments(graph, inputs)), strict=True
    ):
        torch.testing.assert_close(a, b)
