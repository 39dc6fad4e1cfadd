from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import inputs, operators, ready_for, run_and_verify
from graphs.toys import SPEC, Toy, llada
from torch import Tensor

from dllmc.passes.insert_cache import InsertCache
from dllmc.spec import PassError


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("groups", [4, 2, 1])
def test_every_attention_gets_a_cache(layers: int, groups: int) -> None:
    module, spec = llada(n_layers=layers, n_kv_heads=groups)
    graph, context = ready_for("insert_cache", module, spec)
    result = run_and_verify("insert_cache", graph, context)
    assert (result.matched, result.expected) == (layers, layers)
    assert operators(graph)["dllmc.cached_attention.default"] == layers
    assert "dllmc.attention.default" not in operators(graph)
    caches = [f"{kind}_{layer}" for layer in range(layers) for kind in ("keys", "values")]
    assert inputs(graph) == [
        "tokens", "positions", "head_rows", "slots", "key_limit", *caches
    ]  # fmt: skip
    shapes = {n.meta["cache_shape"] for n in graph.graph.nodes if "cache_shape" in n.meta}
    assert shapes == {(groups, module.config.head_dim)}


def test_unevaluated_rows_are_remembered() -> None:
    module, spec = llada()
    graph, context = ready_for("insert_cache", module, spec)
    run_and_verify("insert_cache", graph, context)
    tokens, order = torch.randint(0, 90, (1, 10)), torch.arange(10)[None]
    caches = [torch.zeros(1, 4, 11, 8, dtype=torch.float64) for _ in range(4)]
    limit = torch.tensor([10])
    whole = graph(tokens, order, order, order, limit, *caches)
    rows = torch.tensor([[6, 2, 9]])
    part = graph(tokens[:, rows[0]], rows, torch.tensor([[0, 1, 2]]), rows, limit, *caches)
    for full, few in zip(whole, part, strict=True):
        torch.testing.assert_close(full[:, rows[0]], few, rtol=0, atol=1e-11)
    # Other tokens outside the rows change nothing, for they are not evaluated.
    other = graph(tokens[:, rows[0]], rows, torch.tensor([[0, 1, 2]]), rows, limit, *caches)
    assert torch.equal(other[0], part[0])


def test_a_lost_attention_is_an_error() -> None:
    graph, context = ready_for("insert_cache", Toy(), SPEC)
    more = type(context)(context.spec, context.layers + 1, {})
    with pytest.raises(PassError, match="`insert_cache` matched 2 sites where the model has 3"):
        InsertCache().run(graph, more)


def test_keys_of_another_dtype_than_the_weights_are_refused() -> None:
    class Widened(Toy):
        def attend(self, x: Tensor, layer: int) -> Tensor:
            q, k, v = (part.float() for part in self.split(self.qkv[layer](x)))
            y = F.scaled_dot_product_attention(q, 1.001 * k, v).to(x.dtype)
            return y.transpose(1, 2).reshape(x.shape)

    graph, context = ready_for("insert_cache", Widened().bfloat16(), SPEC)
    message = r"keys in torch\.float32 and the weights are in torch\.bfloat16; convert"
    with pytest.raises(PassError, match=message):
        InsertCache().run(graph, context)
