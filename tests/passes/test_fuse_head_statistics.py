from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from graphs.passing import operators, ready_for, run_and_verify
from graphs.toys import SPEC, VOCAB, Toy, llada
from torch import Tensor, nn

from dllmc.kernels import canonical
from dllmc.passes._graph import calls
from dllmc.passes.fuse_head_statistics import FuseHeadStatistics
from dllmc.spec import PassError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dllmc.spec import DenoiserSpec

LLADA = pytest.param(*llada(), id="llada")
TIED = pytest.param(*llada(weight_tying=True), id="tied")
BIASED = pytest.param(Toy(), SPEC, id="biased")


@pytest.mark.parametrize(("module", "spec"), [LLADA, TIED, BIASED])
def test_the_head_gives_statistics_and_no_logits(module: nn.Module, spec: DenoiserSpec) -> None:
    graph, context = ready_for("fuse_head_statistics", module, spec)
    linears = operators(graph)["aten.linear.default"]
    result = run_and_verify("fuse_head_statistics", graph, context)
    assert (result.matched, result.expected) == (1, 1)
    assert operators(graph)["aten.linear.default"] == linears - 1
    (fused,) = calls(graph, canonical("head_statistics"))
    assert fused.args[3] == spec.mask_id
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    assert len(output.args[0]) == 3


def test_widened_logits_are_still_a_head() -> None:
    class Widened(Toy):
        def finish(self, x: Tensor, tokens: Tensor) -> Tensor:
            return self.head(x).float()

    graph, context = ready_for("fuse_head_statistics", Widened().float(), SPEC)
    assert "aten.to.dtype" not in operators(graph)
    graph, context = ready_for("fuse_head_statistics", Widened().bfloat16(), SPEC)
    assert FuseHeadStatistics().run(graph, context).matched == 1
    assert "aten.to.dtype" not in operators(graph)


def capped(x: Tensor) -> Tensor:
    return 30 * torch.tanh(x / 30)


def scaled(x: Tensor) -> Tensor:
    return x * 0.25


def moved(x: Tensor) -> Tensor:
    return x.float() + torch.linspace(-1, 1, VOCAB, dtype=torch.float64)


def cut(x: Tensor) -> Tensor:
    return torch.cat((x, x), dim=-1)[..., :VOCAB]


def normalised(x: Tensor) -> Tensor:
    return x.log_softmax(-1)


@pytest.mark.parametrize(
    "finish", [capped, scaled, moved, cut, normalised], ids=lambda f: f.__name__
)
def test_logits_that_are_more_than_a_heads_keep_their_end(
    finish: Callable[[Tensor], Tensor],
) -> None:
    class Finished(Toy):
        def finish(self, x: Tensor, tokens: Tensor) -> Tensor:
            return finish(self.head(x))

    graph, context = ready_for("fuse_head_statistics", Finished(), SPEC)
    linears = operators(graph)["aten.linear.default"]
    result = run_and_verify("fuse_head_statistics", graph, context)
    assert (result.matched, result.expected) == (1, 1)
    assert operators(graph)["aten.linear.default"] == linears
    (fused,) = calls(graph, canonical("statistics"))
    assert fused.args[1] == SPEC.mask_id


def test_more_than_logits_is_refused() -> None:
    graph, context = ready_for("fuse_head_statistics", Toy(), SPEC)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    output.args = ((*output.args[0], output.args[0][0]),)
    with pytest.raises(PassError, match="returns 2 values; return the logits alone"):
        FuseHeadStatistics().run(graph, context)
