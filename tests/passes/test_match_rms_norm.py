from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import logits, operators, ready_for, run_and_verify
from graphs.toys import SPEC, WIDTH, Toy, llada
from torch import Tensor, nn

from dllmc.passes.match_rms_norm import MatchRMSNorm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Spelling = Callable[[Tensor, Tensor], Tensor]

NORM = "dllmc.rms_norm.default"


class Normed(Toy):
    """Adds x normalised in all of `spellings`."""

    layers = 1

    def __init__(self, spellings: Iterable[Spelling], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.spellings = tuple(spellings)
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))
        self.to(dtype)

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + sum(spelling(x, self.weight) for spelling in self.spellings)


def widened(x: Tensor, w: Tensor) -> Tensor:
    wide = x.float()
    return w * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def narrowed_root(x: Tensor, w: Tensor) -> Tensor:
    """T5's: only the square is widened, and torch widens the product by itself."""
    root = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * (x * root).to(x.dtype)


def gemma(x: Tensor, w: Tensor) -> Tensor:
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * (1.0 + w.float())).type_as(x)


def llama(x: Tensor, w: Tensor) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x) * w


SAME: dict[str, Spelling] = {
    "power": lambda x, w: w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "product": lambda x, w: w * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)),
    "commuted": lambda x, w: (torch.rsqrt(x.pow(2).mean(2, keepdim=True) + 1e-6) * x) * w,
    "square": lambda x, w: w * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)),
    "eps first": lambda x, w: w * (x * torch.rsqrt(1e-6 + x.pow(2).mean(-1, keepdim=True))),
    "root": lambda x, w: x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w,
    "power of the root": lambda x, w: x / (x.pow(2).mean(-1, keepdim=True) + 1e-6) ** 0.5 * w,
    "inverse": lambda x, w: w * (x * (1 / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt())),
    "reciprocal": lambda x, w: (
        (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt().reciprocal() * x * w
    ),
    "negative power": lambda x, w: w * (x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).pow(-0.5)),
    "mean by hand": lambda x, w: (
        w * (x * torch.rsqrt((x * x).sum(-1, keepdim=True) / WIDTH + 1e-6))
    ),
    "one more than the weight": lambda x, w: (
        x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + w)
    ),
    "torch": lambda x, w: F.rms_norm(x, (WIDTH,), w, 1e-6),
    "torch, default eps": lambda x, w: F.rms_norm(x, (WIDTH,), w),
}
OTHER: dict[str, Spelling] = {
    "no weight": lambda x, _: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "torch without weight": lambda x, _: F.rms_norm(x, (WIDTH,), None, 1e-6),
    "eps outside the root": lambda x, w: (
        w * x / (x.norm(2, dim=-1, keepdim=True) * WIDTH**-0.5 + 1e-6)
    ),
    "least norm": lambda x, w: w * x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6),
    "mean of too few": lambda x, w: (
        w * (x * torch.rsqrt((x * x).sum(-1, keepdim=True) / 7 + 1e-6))
    ),
    "cube root": lambda x, w: x / (x.pow(2).mean(-1, keepdim=True) + 1e-6) ** (1 / 3) * w,
    "one weight": lambda x, w: w[:1] * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "two axes": lambda x, w: (
        w * (x * torch.rsqrt(x.unflatten(-1, (4, 4)).pow(2).mean((-2, -1)) + 1e-6)[..., None])
    ),
    "cube": lambda x, w: w * (x * torch.rsqrt(x.pow(3).abs().mean(-1, keepdim=True) + 1e-6)),
    "of another tensor": lambda x, w: (
        w * ((x + 1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    ),
    "weight from tokens": lambda x, w: (
        (w + x) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    ),
    "sum": lambda x, w: w * (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)),
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_every_norm_of_a_llada_matches(layers: int, dtype: torch.dtype) -> None:
    graph, context = ready_for("match_rms_norm", *llada(dtype, n_layers=layers))
    result = MatchRMSNorm().run(graph, context)
    assert (result.matched, result.expected) == (2 * layers + 1, 2 * layers + 1)
    assert operators(graph)[NORM] == 2 * layers + 1
    assert not {"aten.rsqrt.default", "aten.pow.Tensor_Scalar"} & set(operators(graph))


def test_a_llada_computes_the_same() -> None:
    graph, context = ready_for("match_rms_norm", *llada())
    run_and_verify("match_rms_norm", graph, context)


def test_spellings_match() -> None:
    graph, context = ready_for("match_rms_norm", Normed(SAME.values()), SPEC)
    assert run_and_verify("match_rms_norm", graph, context).matched == len(SAME)
    assert not {"aten.rsqrt.default", "aten.rms_norm.default"} & set(operators(graph))


def test_what_is_another_function_does_not_match() -> None:
    graph, context = ready_for("match_rms_norm", Normed(OTHER.values()), SPEC)
    result = run_and_verify("match_rms_norm", graph, context)
    assert (result.matched, result.skipped_because) == (0, "nothing to match")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_matches_only_where_it_rounds_alike(dtype: torch.dtype) -> None:
    # Only the first three compute in float32 and narrow before they weight.
    spellings = (
        widened, narrowed_root, llama, gemma, SAME["power"], SAME["torch"], SAME["root"]
    )  # fmt: skip
    graph, context = ready_for("match_rms_norm", Normed(spellings, dtype), SPEC)
    tokens = torch.randint(0, 12, (3, 9))
    before = logits(graph, tokens)
    assert MatchRMSNorm().run(graph, context).matched == 3
    assert torch.equal(logits(graph, tokens), before)


def test_gemmas_norm_matches_where_nothing_is_narrowed() -> None:
    graph, context = ready_for("match_rms_norm", Normed([gemma, llama], torch.float32), SPEC)
    assert MatchRMSNorm().run(graph, context).matched == 2


def test_a_norm_narrowed_to_float32_does_not_match() -> None:
    graph, context = ready_for("match_rms_norm", Normed([widened]), SPEC)
    assert run_and_verify("match_rms_norm", graph, context).matched == 0
