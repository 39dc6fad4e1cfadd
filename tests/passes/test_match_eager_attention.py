from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import captured, operators, ready_for, run_and_verify
from graphs.toys import HEADS, SPEC, WIDTH, Toy
from torch import Tensor, nn

from dllmc.compiler.capture import capture
from dllmc.compiler.pipeline import run_passes
from dllmc.passes._graph import argument, calls, value_of
from dllmc.passes.match_attention import SDPA
from dllmc.passes.match_eager_attention import count_attention
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.fx import GraphModule, Node

    Heads = tuple[Tensor, Tensor, Tensor]
    Spelling = Callable[[Tensor, Tensor, Tensor], Tensor]

NAME, HEAD = "match_eager_attention", WIDTH // HEADS


class Eager(Toy):
    """Attention of one layer by `spelling`, of q, k and v `[B, H, T, D]`."""

    layers = 1

    def __init__(self, spelling: Spelling) -> None:
        super().__init__()
        self.spelling = spelling
        self.slopes = nn.Parameter(torch.rand(HEADS, 1, 1, dtype=torch.float64) + 0.5)
        self.register_buffer("root", torch.tensor(2.0, dtype=torch.float64))

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        return self.spelling(q, k, v).transpose(1, 2).reshape(x.shape)


def matmul(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def scaled_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return matmul(q * 0.5, k, v)


def scaled_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(F.softmax(0.5 * torch.matmul(q, k.mT), dim=3), v)


def divided_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.permute(0, 1, 3, 2)) / math.sqrt(HEAD)
    return torch.matmul(nn.Softmax(dim=-1)(scores), v)


def divided_by_a_tensor(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(2, 3)
    scores = scores / torch.full([], HEAD**0.5, dtype=scores.dtype)
    return scores.softmax(-1) @ v


def in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.transpose(2, 3)) * 0.5
    return F.softmax(scores, dim=-1, dtype=torch.float64).to(q.dtype) @ v


def with_dropout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = F.dropout((q @ k.transpose(2, 3) * 0.5).softmax(-1), 0.1, training=False)
    return weights @ v


def positions_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.5).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).transpose(1, 2)


def heads_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.einsum("bhqd, bhkd -> bhqk", q, k) * 0.5).softmax(-1)
    return torch.einsum("bhkd, bhqk -> bhqd", v, weights)


def keys_first(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.einsum("bhkd,bhqd->bhqk", k, q) * 0.5).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def merged(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[2], HEAD)


def by_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (torch.bmm(merged(q), merged(k).transpose(1, 2)) * 0.5).softmax(-1)
    return torch.bmm(weights, merged(v)).view(q.shape)


def by_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length = q.shape[2]
    empty = torch.empty(q.shape[0] * HEADS, length, length, dtype=q.dtype)
    scores = torch.baddbmm(empty, merged(q), merged(k).transpose(1, 2), beta=0.0, alpha=0.5)
    weights = scores.view(q.shape[0], HEADS, length, length).softmax(-1)
    return torch.bmm(weights.view(-1, length, length), merged(v)).view(q.shape)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys and values of two heads, each for two queries, by broadcasting."""
    q = q.unflatten(1, (2, 2))
    k, v = k[:, :2, None], v[:, :2, None]
    return ((q @ k.transpose(-1, -2) * 0.5).softmax(-1) @ v).flatten(1, 2)


def grouped_by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q = q.unflatten(1, (2, 2))
    weights = (torch.einsum("bgnqd,bgkd->bgnqk", q, k[:, :2]) * 0.5).softmax(-1)
    return torch.einsum("bgnqk,bgkd->bgnqd", weights, v[:, :2]).flatten(1, 2)


SPELLINGS: list[Spelling] = [
    matmul, scaled_queries, scaled_scores, divided_scores, divided_by_a_tensor, in_float32,
    with_dropout, positions_first, heads_first, keys_first, by_bmm, by_baddbmm, grouped,
    grouped_by_einsum,
]  # fmt: skip


def only_call(graph: GraphModule) -> Node:
    (call,) = calls(graph, SDPA)
    return call


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: s.__name__)
def test_spellings_become_one_call(spelling: Spelling) -> None:
    graph, context = ready_for(NAME, Eager(spelling), SPEC)
    # Counted in the captured graph, before any pass removed something.
    assert context.layers == 1
    assert run_and_verify(NAME, graph, context).matched == 1
    call = only_call(graph)
    assert value_of(argument(call, "query")).dim() == 4
    assert argument(call, "attn_mask") is None
    assert not {"aten.softmax.int", "aten.bmm.default", "aten.baddbmm.default"} & set(
        operators(graph)
    )
    plain = spelling in (matmul, scaled_queries)
    assert argument(call, "scale") == pytest.approx(1.0 if plain else 0.5, rel=1e-15)


def test_keys_that_were_transposed_are_read_as_they_were() -> None:
    graph, context = ready_for(NAME, Eager(matmul), SPEC)
    run_and_verify(NAME, graph, context)
    before = {str(n.target) for n in argument(only_call(graph), "key").all_input_nodes}
    assert before <= {"aten.reshape.default"}


def hidden(length: int) -> Tensor:
    order = torch.arange(length)
    return (order[:, None] - order).abs() > 5


def filled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT).masked_fill(hidden(q.shape[2]), float("-inf"))
    return scores.softmax(-1) @ v


def filled_with_the_least(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    scores = scores.masked_fill(hidden(q.shape[2])[None, None], torch.finfo(scores.dtype).min)
    return scores.softmax(-1) @ v


def chosen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    least = torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype)
    return torch.where(~hidden(q.shape[2]), scores, least).softmax(-1) @ v


def added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    order = torch.arange(q.shape[2], dtype=q.dtype)
    return (q @ k.mT / 2 - (order[:, None] - order).abs()).softmax(-1) @ v


def added_before_the_scale(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    order = torch.arange(q.shape[2], dtype=q.dtype)
    return (((order[:, None] - order).abs() + q @ k.mT) * 0.5).softmax(-1) @ v


def added_and_filled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    order = torch.arange(q.shape[2], dtype=q.dtype)
    scores = q @ k.mT + (order[:, None] - order).abs()
    return scores.masked_fill(hidden(q.shape[2]), -1e9).softmax(-1) @ v


def slopes(batch: int, length: int, dtype: torch.dtype) -> Tensor:
    """ALiBi as in BLOOM, `[B * H, 1, T]`."""
    rates = 2.0 ** -torch.arange(1, HEADS + 1, dtype=dtype)
    bias = (rates[:, None] * torch.arange(length, dtype=dtype))[None].expand(batch, -1, -1)
    return bias.reshape(batch * HEADS, 1, length)


def added_to_merged(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = slopes(q.shape[0], q.shape[2], q.dtype)
    scores = bias.baddbmm(merged(q), merged(k).transpose(1, 2), beta=1.0, alpha=0.5)
    return torch.bmm(scores.softmax(-1), merged(v)).view(q.shape)


def added_to_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = slopes(1, q.shape[2], q.dtype)
    return (q @ k.mT * 0.5 + bias).softmax(-1) @ v


@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [
        (added_to_merged, torch.float64),
        (added_to_heads, torch.float64),
        (filled, torch.bool),
        (filled_with_the_least, torch.bool),
        (chosen, torch.bool),
        (added, torch.float64),
        (added_before_the_scale, torch.float64),
        (added_and_filled, torch.float64),
    ],
)
def test_masks_pass_through(spelling: Spelling, dtype: torch.dtype) -> None:
    graph, context = ready_for(NAME, Eager(spelling), SPEC)
    assert run_and_verify(NAME, graph, context).matched == 1
    assert value_of(argument(only_call(graph), "attn_mask")).dtype == dtype


@pytest.mark.parametrize("spelling", [added_to_merged, added_to_heads])
def test_slopes_of_each_head_reach_the_cache(spelling: Spelling) -> None:
    graph, context = captured(Eager(spelling), SPEC)
    matched = {r.name: r.matched for r in run_passes(graph, context, {}, verify=True)[1]}
    assert matched["insert_cache"] == 1


def test_a_learned_factor_of_each_head_is_the_queries() -> None:
    class Cosine(Eager):
        def attend(self, x: Tensor, layer: int) -> Tensor:
            q, k, v = self.split(self.qkv[layer](x))
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / self.root * self.slopes
            return (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)

    graph, context = ready_for(NAME, Cosine(matmul), SPEC)
    assert run_and_verify(NAME, graph, context).matched == 1
    assert argument(only_call(graph), "scale") == 0.5


def by_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=0.5)[0]


def by_math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.aten._scaled_dot_product_attention_math(q, k, v, scale=0.5)[0]


@pytest.mark.parametrize("spelling", [by_flash, by_math], ids=lambda s: s.__name__)
def test_torchs_own_implementations_are_the_call(spelling: Spelling) -> None:
    assert count_attention(capture(Eager(spelling), SPEC)) == 1
    graph, context = ready_for(NAME, Eager(spelling), SPEC)
    assert run_and_verify(NAME, graph, context).matched == 1
    assert argument(only_call(graph), "scale") == 0.5


def test_an_implementation_whose_normaliser_is_read_is_refused_by_name() -> None:
    def reading(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        return y * sums[..., None]

    graph, context = captured(Eager(reading), SPEC)
    with pytest.raises(NotPositionWiseError, match="is an attention call that is not known; call"):
        run_passes(graph, context, {})


def over_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-2) @ v


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (torch.tanh(q @ k.mT / 50) * 50).softmax(-1) @ v


def reweighted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT).softmax(-1) * 2) @ v


def transposed_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1).mT @ v


def over_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return ((q @ k.mT).softmax(-1) @ v).transpose(1, 2)


def visible_filling(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).masked_fill(hidden(q.shape[2]), -2.0).softmax(-1) @ v


def turned_over(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    order = torch.arange(q.shape[2], dtype=q.dtype)
    return ((order[:, None] - order) - q @ k.mT).softmax(-1) @ v


@pytest.mark.parametrize(
    "spelling",
    [
        over_queries, capped, reweighted, transposed_weights, over_heads, visible_filling,
        turned_over,
    ],
    ids=lambda s: s.__name__,
)  # fmt: skip
def test_what_is_another_function_stays(spelling: Spelling) -> None:
    graph, context = ready_for(NAME, Eager(spelling), SPEC)
    assert run_and_verify(NAME, graph, context).matched == 0
    assert not calls(graph, SDPA)


def upcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q.float() @ k.float().mT * 0.5).softmax(-1)
    return weights.to(v.dtype) @ v


def all_upcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q.float() @ k.float().mT * 0.5).softmax(-1) @ v.float()).to(q.dtype)


def upcast_call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), scale=0.5).to(q.dtype)


def upcast_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries that half precision does not hold."""
    q = q.float() * 1.001
    return ((q @ k.float().mT * 0.5).softmax(-1) @ v.float()).to(k.dtype)


@pytest.mark.parametrize(
    ("spelling", "dtype"),
    [
        (upcast, torch.bfloat16),
        (all_upcast, torch.bfloat16),
        (in_float32, torch.bfloat16),
        (upcast_call, torch.bfloat16),
        (upcast_queries, torch.float32),
    ],
)
def test_half_precision_is_kept_where_it_was_only_widened(
    spelling: Spelling, dtype: torch.dtype
) -> None:
    module = Eager(spelling).bfloat16()
    graph, _ = ready_for(NAME, module, SPEC)
    run = ready_for("match_attention", module, SPEC)[0]
    call = only_call(run)
    names = ("query", "key", "value")
    assert {value_of(argument(call, name)).dtype for name in names} == {dtype}
    tokens = torch.randint(0, 12, (3, 9))
    torch.testing.assert_close(run(tokens), graph(tokens), rtol=2e-2, atol=2e-2)
