from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from graphs.passing import logits, operators, ready_for, run_and_verify
from graphs.toys import HEADS, SPEC, Toy, angles, llada

from dllmc.passes.match_rotary import MatchRotary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    Spelling = Callable[[Tensor, Tensor, Tensor], Tensor]

ROTARY = "dllmc.rotary.default"


class Turning(Toy):
    """Adds x turned in all of `spellings`."""

    layers = 1

    def __init__(
        self,
        spellings: Iterable[Spelling],
        dtype: torch.dtype = torch.float64,
        tables: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.spellings, self.tables = tuple(spellings), tables
        self.to(dtype)

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        heads = x.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        turns = angles(x.shape[1], heads.shape[3])
        cos, sin = turns.cos().to(self.tables), turns.sin().to(self.tables)
        turned: Tensor = sum(spelling(heads, cos, sin) for spelling in self.spellings)
        return x + turned.transpose(1, 2).flatten(2)


def by_slices(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def by_chunks(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def by_split(x: Tensor) -> Tensor:
    first, second = x.split(x.shape[-1] // 2, dim=3)
    return torch.cat((-second, first), dim=3)


def by_pairs_of_halves(x: Tensor) -> Tensor:
    first, second = x.view(*x.shape[:-1], 2, x.shape[-1] // 2).unbind(dim=-2)
    return torch.cat((-second, first), dim=-1)


def by_picking_halves(x: Tensor) -> Tensor:
    halves = x.unflatten(-1, (2, -1))
    return torch.cat((-halves.select(-2, 1), halves.select(3, 0)), dim=-1)


def partial(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half of the width turns; the model's code takes that half three times."""
    cos, sin = cos[..., :2], sin[..., :2]
    turned = x[..., :2] * cos + by_slices(x[..., :2]) * sin
    return torch.cat((turned, x[..., 2:]), dim=-1)


def widened(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.to(cos.dtype)
    return (wide * cos + by_chunks(wide) * sin).to(x.dtype)


def promoted(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Torch widens each product by itself; the result stays wide until attention."""
    return (x * cos + by_chunks(x) * sin).to(x.dtype)


SAME: dict[str, Spelling] = {
    "chunks": lambda x, cos, sin: x * cos + by_chunks(x) * sin,
    "slices": lambda x, cos, sin: x * cos + by_slices(x) * sin,
    "split": lambda x, cos, sin: x * cos + by_split(x) * sin,
    "pairs of halves": lambda x, cos, sin: x * cos + by_pairs_of_halves(x) * sin,
    "picked halves": lambda x, cos, sin: x * cos + by_picking_halves(x) * sin,
    "partial": partial,
    "commuted sum": lambda x, cos, sin: by_chunks(x) * sin + x * cos,
    "commuted products": lambda x, cos, sin: cos * x + sin * by_slices(x),
}
OTHER: dict[str, Spelling] = {
    "turned the other way": lambda x, cos, sin: (
        x * cos + torch.cat((x.chunk(2, dim=-1)[1], -x.chunk(2, dim=-1)[0]), dim=-1) * sin
    ),
    "no turn": lambda x, cos, sin: x * cos + x * sin,
    "of two tensors": lambda x, cos, sin: (x + 1) * cos + by_chunks(x) * sin,
    "of two slices": lambda x, cos, sin: torch.cat(
        (x[..., :2] * cos[..., :2] + by_slices(x[..., 2:]) * sin[..., :2], x[..., 2:]), dim=-1
    ),
    "interleaved": lambda x, cos, sin: (
        x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2) * sin
    ),
    "pairs": lambda x, cos, sin: (
        x * cos + torch.cat((-x.unflatten(-1, (-1, 2))[..., 1], x[..., ::2]), dim=-1) * sin
    ),
    "thirds": lambda x, cos, sin: x * cos + torch.cat((-x[..., 1:], x[..., :1]), dim=-1) * sin,
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_every_rotation_of_a_llada_matches(layers: int, dtype: torch.dtype) -> None:
    graph, context = ready_for("match_rotary", *llada(dtype, n_layers=layers))
    result = MatchRotary().run(graph, context)
    assert (result.matched, result.expected) == (2 * layers, 2 * layers)
    assert operators(graph)[ROTARY] == 2 * layers
    assert not {"aten.neg.default", "aten.chunk.default"} & set(operators(graph))


def test_a_llada_computes_the_same() -> None:
    graph, context = ready_for("match_rotary", *llada())
    run_and_verify("match_rotary", graph, context)


def test_spellings_match() -> None:
    graph, context = ready_for("match_rotary", Turning(SAME.values()), SPEC)
    assert run_and_verify("match_rotary", graph, context).matched == len(SAME)
    assert operators(graph)[ROTARY] == len(SAME)


def test_what_is_another_function_does_not_match() -> None:
    graph, context = ready_for("match_rotary", Turning(OTHER.values()), SPEC)
    result = run_and_verify("match_rotary", graph, context)
    assert (result.matched, result.skipped_because) == (0, "nothing to match")


@pytest.mark.parametrize(
    ("spellings", "tables", "matched"),
    [
        # Where torch widens by itself, x has another dtype than the operator expects.
        ([widened, promoted], torch.float32, 1),
        ([SAME["chunks"]], torch.bfloat16, 1),
    ],
)
def test_half_precision_matches_only_where_it_rounds_alike(
    spellings: list[Spelling], tables: torch.dtype, matched: int
) -> None:
    module = Turning(spellings, torch.bfloat16, tables)
    graph, context = ready_for("match_rotary", module, SPEC)
    tokens = torch.randint(0, 12, (3, 9))
    before = logits(graph, tokens)
    assert MatchRotary().run(graph, context).matched == matched
    assert torch.equal(logits(graph, tokens), before)
