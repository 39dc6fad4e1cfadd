from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from graphs.passing import logits, operators
from graphs.toys import SPEC, VOCAB, Toy, llada
from torch import Tensor, nn

from dllmc.compiler.capture import capture
from dllmc.spec import CaptureError

if TYPE_CHECKING:
    from dllmc.spec import DenoiserSpec


def test_a_capture_computes_what_the_module_does_at_any_size() -> None:
    module, spec = llada()
    graph = capture(module, spec)
    for batch, length in ((1, 2), (2, 9), (5, 1), (1, 200)):
        tokens = torch.randint(0, 90, (batch, length))
        torch.testing.assert_close(logits(graph, tokens), module(tokens), rtol=0, atol=1e-12)


def test_parameters_are_those_of_the_module() -> None:
    module, spec = llada()
    graph = capture(module, spec)
    own = {parameter.data_ptr() for parameter in module.parameters()}
    assert {parameter.data_ptr() for parameter in graph.parameters()} <= own


def test_the_input_is_called_tokens_and_comes_first() -> None:
    class Renamed(Toy):
        def forward(self, words: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(words)

    nodes = list(capture(Renamed(), SPEC).graph.nodes)
    assert (nodes[0].op, nodes[0].target, nodes[0].name) == ("placeholder", "tokens", "tokens")
    assert sum(node.op == "placeholder" for node in nodes) == 1


def test_nothing_mutates() -> None:
    class Mutating(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            y = x * 2
            y += x
            y[..., 0] = 0
            return y.relu_()

    module = Mutating()
    graph = capture(module, SPEC)
    tokens = torch.randint(0, VOCAB, (2, 6))
    torch.testing.assert_close(logits(graph, tokens), module(tokens), rtol=0, atol=1e-12)
    targets = [n.target for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
    assert not [target for target in targets if target._schema.is_mutable]


def test_source_lines_are_kept() -> None:
    graph = capture(Toy(), SPEC)
    assert operators(graph)["aten.linear.default"] == 9
    linear = next(n for n in graph.graph.nodes if "linear" in str(n.target))
    assert "toys.py" in linear.meta["stack_trace"]


class Counting(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        self.calls += 1
        return x


class Branching(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x if tokens.sum() > 3 else -x


class FixedLength(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + torch.ones(7, 1, dtype=torch.float64)


class TwoInputs(nn.Module):
    def forward(self, tokens: Tensor, times: Tensor) -> Tensor:
        return tokens * times


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Counting(), "the forward changes calls"),
        (Branching(), "torch.export cannot capture Branching"),
        (FixedLength(), "its code works for `length` = 7 only"),
        (TwoInputs(), "torch.export cannot capture TwoInputs"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_captured_is_refused_in_one_line(module: nn.Module, message: str) -> None:
    with pytest.raises(CaptureError, match=message) as caught:
        capture(module, SPEC)
    assert "\n" not in str(caught.value)
    assert "--debug" in str(caught.value)


def test_the_shortest_canvas() -> None:
    spec: DenoiserSpec = SPEC.model_copy(update={"max_length": 3})
    graph = capture(Toy(), spec)
    assert logits(graph, torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 3, VOCAB)
