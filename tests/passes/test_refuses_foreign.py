"""Modules that are no position-wise denoisers: each is refused at the line that says so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from graphs.toys import LONGEST, MASK, SPEC, WIDTH, Toy, angles, rotated
from torch import Tensor, nn

from dllmc.compiler import compile_model
from dllmc.runtime.engine import Engine
from dllmc.spec import CaptureError, DllmcError, NotADenoiserError, NotPositionWiseError


class Bad(Toy):
    layers = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.fresh = nn.BatchNorm1d(WIDTH, track_running_stats=False)
        self.group = nn.GroupNorm(4, WIDTH)
        self.double().eval().requires_grad_(False)

    def feed(self, x: Tensor, layer: int) -> Tensor:
        return x


class DepthwiseConvolution(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + self.conv(x.mT).mT


class TokenShift(Bad):
    """RWKV's."""

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        return 0.5 * x + 0.5 * before


class LinearAttention(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = (F.elu(part) + 1 for part in self.qkv[layer](x).chunk(3, dim=-1))
        state = (k[..., :, None] * v[..., None, :]).cumsum(dim=1)
        return torch.einsum("btd,btde->bte", q, state)


class Pooled(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + F.avg_pool1d(x.mT, 3, stride=1, padding=1).mT


class FreshStatistics(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.fresh(x.mT).mT


class GroupNorm(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.group(x.transpose(1, 2)).transpose(1, 2)


class PooledAttention(Bad):
    """Weights over positions from one score each."""

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        weights = torch.softmax(x[..., :1], dim=1)
        return x * weights


class Summary(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        pooled = x.sum(dim=1, keepdim=True) / 8
        return x + pooled


class FirstRow(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + x[:, 0].unsqueeze(1)


class Fourier(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return torch.fft.fft(torch.fft.fft(x, dim=-1), dim=1).real


class Synthesizer(Bad):
    """Learned weights over positions, whatever the tokens are."""

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        places = self.places(torch.arange(x.shape[1]))
        return x + (places @ places.mT).softmax(-1) @ x


class Sorted(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        order = x.sum(-1).argsort(dim=1)
        return x.gather(1, order[..., None].expand_as(x))


class PositionsOfWords(Bad):
    """Positions that skip masks."""

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        places = (tokens != MASK).long().cumsum(-1) - 1
        return x + self.places(places.clamp(min=0))


class Capped(Bad):
    """Gemma 2's soft cap over the scores."""

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        scores = 50 * torch.tanh(q @ k.transpose(-1, -2) / 50)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


class AcrossTheBatch(Bad):
    """`nn.MultiheadAttention` without `batch_first`, given the batch first."""

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.qkv[layer](x).transpose(0, 1).unsqueeze(1).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v)
        return y.squeeze(1).transpose(0, 1)


class RootOfTheLength(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        return super().attend(x / x.shape[1] ** 0.5, layer)


class DynamicNTK(Bad):
    def turn(self, x: Tensor) -> Tensor:
        turns = angles(x.shape[2], x.shape[3]) / (1 + x.shape[2] / LONGEST)
        return rotated(x, turns.cos(), turns.sin())


class Unknown(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + torch.linalg.matrix_exp(x[..., None, None])[..., 0, 0]


class IsCausal(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(x.shape)


class AddedCausalMask(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        later = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype).triu(1)
        weights = (q @ k.transpose(-1, -2) * 0.5 + later).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(x.shape)


class FilledCausalMask(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        scores = torch.where(seen, q @ k.transpose(-1, -2), torch.finfo(x.dtype).min)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)


class LogOfTheLength(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        return super().attend(x * math.log(x.shape[1]), layer)


class Branching(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        if (tokens == MASK).any():
            return x
        return 2 * x


# Class, operator or "", the line of code that is named, what it does, and what to do instead.
MIXING = [
    (
        DepthwiseConvolution,
        "aten.conv1d.default",
        "self.conv(x.mT)",
        "is a convolution",
        "take it out",
    ),
    (
        TokenShift,
        "aten.pad.default",
        "before = F.pad",
        "shifts rows",
        "keep one row for each token",
    ),
    (
        LinearAttention,
        "aten.cumsum.default",
        "state = (k[",
        "accumulates over the sequence",
        "arange",
    ),
    (Pooled, "aten.avg_pool1d.default", "F.avg_pool1d", "pools or resamples", "keep one row"),
    (FreshStatistics, "aten.batch_norm.default", "self.fresh(", "statistics over", "LayerNorm"),
    (GroupNorm, "aten.group_norm.default", "self.group(x", "statistics over", "RMSNorm"),
    (
        PooledAttention,
        "aten.softmax.int",
        "weights = torch.softmax",
        "is a softmax over",
        "features",
    ),
    (Summary, "aten.sum.dim_IntList", "pooled = x.sum", "pools the sequence", "through attention"),
    (FirstRow, "aten.select.int", "x[:, 0]", "picks rows", "keep all rows"),
    (
        Fourier,
        "aten.fft_fft.default",
        "torch.fft.fft(torch",
        "is a Fourier transform",
        "attention",
    ),
    (
        Synthesizer,
        "aten.matmul.default",
        "(places @ places.mT)",
        "multiplies positions",
        "scaled_dot_product",
    ),
    (Sorted, "aten.argsort.default", "x.sum(-1).argsort", "orders values", "feature axis only"),
    (PositionsOfWords, "aten.cumsum.default", "places = (tokens", "accumulates", "torch.arange"),
    (Capped, "aten.matmul.default", "scores = 50", "multiplies positions", "scaled_dot_product"),
    (
        AcrossTheBatch,
        "dllmc.attention.default",
        "y = F.scaled_dot",
        "another axis",
        "[batch, heads",
    ),
    (RootOfTheLength, "aten.div.Tensor", "** 0.5, layer)", "as a number", "partial evaluation"),
    (
        DynamicNTK,
        "aten.cos.default",
        "turns.cos(), turns.sin())",
        "changes with the canvas",
        "single",
    ),
    (Unknown, "aten.linalg_matrix_exp.default", "matrix_exp", "has no rule", "add a rule to"),
]
CAUSAL = [
    (IsCausal, "is_causal=True", "is causal"),
    (AddedCausalMask, "return (weights @ v)", "has a causal mask"),
    (FilledCausalMask, "return (scores.softmax(-1)", "has a causal mask"),
]
NOT_CAPTURED = [
    (LogOfTheLength, "frozen at the example's `length`"),
    (Branching, "cannot capture Branching"),
]


def refusal(kind: type[Bad]) -> DllmcError:
    with pytest.raises(DllmcError) as caught:
        compile_model(kind(), engine_of=Engine, spec=SPEC, backend="eager")
    return caught.value


def line_of(kind: type[Bad], code: str) -> str:
    """`file:LINE` and the whole line of `kind`'s that has `code` in it."""
    lines = Path(__file__).read_text().splitlines()
    begin = lines.index(f"class {kind.__name__}(Bad):")
    number = next(n for n in range(begin, len(lines)) if code in lines[n])
    return f"{Path(__file__).name}:{number + 1} `{lines[number].strip()}`"


@pytest.mark.parametrize(
    ("kind", "operator", "code", "does", "remedy"),
    MIXING,
    ids=[case[0].__name__ for case in MIXING],
)
def test_the_refusal_names_operator_line_reason_and_remedy(
    kind: type[Bad], operator: str, code: str, does: str, remedy: str
) -> None:
    error = refusal(kind)
    said = str(error)
    assert isinstance(error, NotPositionWiseError)
    assert f"({operator}) at {line_of(kind, code)}" in said
    assert does in said
    assert remedy in said.partition(does)[2]
    assert "\n" not in said


@pytest.mark.parametrize(("kind", "code", "does"), CAUSAL)
def test_a_causal_model_is_no_denoiser(kind: type[Bad], code: str, does: str) -> None:
    error = refusal(kind)
    assert isinstance(error, NotADenoiserError)
    assert f"at {line_of(kind, code)} {does}" in str(error)
    assert "role='auxiliary'" in str(error)


@pytest.mark.parametrize(("kind", "does"), NOT_CAPTURED)
def test_what_export_cannot_follow_is_refused_in_one_line(kind: type[Bad], does: str) -> None:
    error = refusal(kind)
    assert isinstance(error, CaptureError)
    assert does in str(error)
    assert Path(__file__).name in str(error)


def test_a_causal_model_with_that_role_compiles_and_is_not_decoded_by_itself() -> None:
    spec = SPEC.model_copy(update={"role": "auxiliary", "attention": "causal"})
    engine = compile_model(IsCausal(), engine_of=Engine, spec=spec, backend="eager").engine()
    with pytest.raises(DllmcError, match="`role`='auxiliary'"):
        engine.generate([1, 2], max_new_tokens=4)
