from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch.nn.functional as F
from graphs.passing import operators, ready_for, run_and_verify
from graphs.toys import HEADS, SPEC, WIDTH, Toy, llada

from dllmc.kernels import canonical
from dllmc.passes import pass_types
from dllmc.spec import NotADenoiserError, NotPositionWiseError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

SDPA = "aten.scaled_dot_product_attention.default"


class Attending(Toy):
    """Calls attention with whatever `options` say."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        y = F.scaled_dot_product_attention(q, k, v, **self.options)
        return y.transpose(1, 2).reshape(x.shape)


def attending(**options: Any) -> Attending:
    toy = Attending()
    toy.options = options
    return toy


def scales(graph: GraphModule) -> list[float]:
    return [n.args[3] for n in graph.graph.nodes if n.target is canonical("attention")]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("shape", ["llada-tiny", "llada-tiny-gqa"])
def test_every_layer_of_a_llada_matches(layers: int, shape: str) -> None:
    graph, context = ready_for("match_attention", *llada(shape=shape, n_layers=layers))
    result = run_and_verify("match_attention", graph, context)
    assert (result.matched, result.expected) == (layers, layers)
    assert operators(graph)["dllmc.attention.default"] == layers
    assert not {SDPA, "aten.repeat_interleave.self_int"} & set(operators(graph))


def test_the_scale_is_written_out() -> None:
    for options, scale in (({}, 1 / math.sqrt(WIDTH / HEADS)), ({"scale": 0.3}, 0.3)):
        graph, context = ready_for("match_attention", attending(**options), SPEC)
        run_and_verify("match_attention", graph, context)
        assert scales(graph) == [scale, scale]


def test_grouped_queries_of_torch_match() -> None:
    class Grouped(Toy):
        def attend(self, x: Tensor, layer: int) -> Tensor:
            q, k, v = self.split(self.qkv[layer](x))
            y = F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True)
            return y.transpose(1, 2).reshape(x.shape)

    graph, context = ready_for("match_attention", Grouped(), SPEC)
    assert run_and_verify("match_attention", graph, context).matched == 2


def test_heads_repeated_unlike_stay_repeated() -> None:
    class Unlike(Toy):
        def attend(self, x: Tensor, layer: int) -> Tensor:
            q, k, v = self.split(self.qkv[layer](x))
            k = k[:, :2].repeat_interleave(2, dim=1)
            v = v[:, :1].repeat_interleave(4, dim=1)
            y = F.scaled_dot_product_attention(q, k, v)
            return y.transpose(1, 2).reshape(x.shape)

    graph, context = ready_for("match_attention", Unlike(), SPEC)
    assert run_and_verify("match_attention", graph, context).matched == 2
    assert operators(graph)["aten.repeat_interleave.self_int"] == 4


def test_causal_attention_is_refused() -> None:
    graph, context = ready_for("match_attention", attending(is_causal=True), SPEC)
    with pytest.raises(NotADenoiserError, match="sees both directions"):
        run_and_verify("match_attention", graph, context)


def test_attention_with_dropout_is_refused() -> None:
    # Capture refuses what draws random numbers, so the pass is given it in another way.
    graph, context = ready_for("match_attention", attending(), SPEC)
    for call in graph.graph.nodes:
        if str(call.target) == SDPA:
            call.args = (*call.args[:3], None, 0.1)
    with pytest.raises(NotPositionWiseError, match="put the module in eval mode"):
        pass_types()["match_attention"]().run(graph, context)


def test_attention_without_a_head_axis_is_refused() -> None:
    class Headless(Toy):
        def attend(self, x: Tensor, layer: int) -> Tensor:
            return F.scaled_dot_product_attention(*self.qkv[layer](x).chunk(3, dim=-1))

    graph, context = ready_for("match_attention", Headless(), SPEC)
    with pytest.raises(NotPositionWiseError, match="has 3 axes"):
        run_and_verify("match_attention", graph, context)
