from __future__ import annotations

import linecache
import re
from typing import Any

import pytest
import torch
from graphs.passing import logits, operators
from graphs.toys import SPEC, VOCAB, WIDTH, Toy
from torch import Tensor, nn

from dllmc.compiler.capture import capture
from dllmc.spec import CaptureError


def same(module: nn.Module) -> Any:
    """The graph of `module`, once it computes the same."""
    graph = capture(module, SPEC)
    tokens = torch.randint(0, VOCAB, (2, 9))
    torch.testing.assert_close(logits(graph, tokens), module(tokens), rtol=0, atol=1e-12)
    return graph


def wrappers(graph: Any) -> list[str]:
    return [name for name in operators(graph) if not name.startswith(("aten.", "<built-in"))]


class Switched(Toy):
    """Autocast switched off around a table, gradients around a part: as published code does."""

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        with torch.autocast(device_type="cpu", enabled=False):
            places = torch.arange(x.shape[1], device=x.device).to(x.dtype)
            cos, sin = places.cos(), places.sin()
        with torch.no_grad():
            y = x * cos[:, None]
        return y + sin[:, None]


def test_autocast_switched_off_is_inlined() -> None:
    graph = same(Switched())
    assert wrappers(graph) == []
    assert not [child for child in graph.modules() if isinstance(child, torch.fx.GraphModule)][1:]


def test_gradients_switched_on_and_off_are_inlined() -> None:
    class Graded(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            with torch.enable_grad():
                y = x.exp()
                with torch.no_grad():
                    y = y * 2
            return y

    graph = same(Graded())
    assert wrappers(graph) == []
    assert operators(graph)["aten.exp.default"] == 1


def test_wrappers_in_wrappers_are_inlined() -> None:
    class Nested(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                y = x.sin()
                with torch.enable_grad():
                    y = y * torch.full((WIDTH,), 2.0, dtype=x.dtype)
                with torch.autocast("cpu", enabled=False):
                    y = y.cos()
            return y

    graph = same(Nested())
    assert wrappers(graph) == []
    assert operators(graph)["aten.cos.default"] == operators(graph)["aten.sin.default"] == 1


def test_inlined_nodes_keep_values_and_source_lines() -> None:
    graph = same(Switched())
    node = next(node for node in graph.graph.nodes if node.target is torch.ops.aten.cos.default)
    assert node.meta["val"].dtype == torch.float64
    assert "test_inline.py" in node.meta["stack_trace"]


def test_autocast_of_another_device_does_nothing_and_is_inlined() -> None:
    class Elsewhere(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            with torch.autocast("mps", dtype=torch.bfloat16):
                return x.sin()

    assert wrappers(same(Elsewhere())) == []


def test_autocast_to_another_dtype_is_refused_with_its_line() -> None:
    class Cast(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.head(x) @ self.head.weight  # culprit

    with pytest.raises(CaptureError, match=r"autocast to `torch\.bfloat16`") as caught:
        capture(Cast(), SPEC)
    assert "\n" not in str(caught.value)
    place = re.search(r" at (\S+):(\d+)", str(caught.value))
    assert place is not None
    assert linecache.getline(place[1], int(place[2])).endswith("# culprit\n")


def test_an_operator_that_holds_a_graph_and_is_no_wrapper_is_refused_by_name() -> None:
    class Choosing(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            result: Tensor = torch.cond(tokens.sum() > 3, lambda x: x * 2, torch.sin, (x,))
            return result

    with pytest.raises(CaptureError, match=r"`cond` at .* compute both sides and `where`"):
        capture(Choosing(), SPEC)
