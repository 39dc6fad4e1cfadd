"""Models that mix positions or sequences outside attention; torch.export accepts nearly all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import captured
from graphs.toys import LONGEST, MASK, SPEC, WIDTH, Toy, angles, rotated, sinusoids
from torch import Tensor, nn

from dllmc.compiler.pipeline import run_passes
from dllmc.spec import CaptureError, DenoiserSpec, NotADenoiserError, NotPositionWiseError


class Bad(Toy):
    layers = 1

    def feed(self, x: Tensor, layer: int) -> Tensor:
        return x


class Convolution(Bad):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1).double()

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class CumulativeSum(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.cumsum(1)


class Roll(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.roll(1, dims=1)


class Flip(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + x.flip(1)


class ShiftByJoining(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat((x[:, 1:], x[:, :1]), dim=1)


class ShiftBySlices(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + F.pad(x, (0, 0, 1, 0))[:, :-1]


class Softmax(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.softmax(dim=1)


class Sort(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.sort(dim=1).values


class Mean(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


class MaskRatio(Bad):
    """Time conditioning: how much of the canvas is masked."""

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x * (tokens == MASK).double().mean(1)[:, None, None]


class PositionsFromTokens(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + self.places((tokens != MASK).cumsum(1))


class MixingProduct(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x @ (x.transpose(1, 2) @ x)


class CappedAttention(Bad):
    """One layer by hand, whose scores are no scores that torch's attention has."""

    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return torch.tanh(x @ x.transpose(1, 2)).softmax(-1) @ x


class MixingEinsum(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return torch.einsum("bsd,btd->bsd", x, x)


class Fourier(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return torch.fft.fft(x, dim=1).real


class NormOverTheSequence(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


class Gather(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        first = torch.zeros_like(tokens)[..., None].expand(-1, -1, WIDTH)
        return x + x.gather(1, first)


class FirstToken(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x + x[:, :1]


class MergedAxes(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.reshape(-1, WIDTH).cumsum(0).view(x.shape)


class Causal(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).reshape(x.shape)


class Masked(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        bias = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return y.transpose(1, 2).reshape(x.shape)


class PositionMajorAttention(Bad):
    """Attends over heads instead of positions."""

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.split(self.qkv[layer](x)))
        return F.scaled_dot_product_attention(q, k, v).reshape(x.shape)


class RootLength(Bad):
    def attend(self, x: Tensor, layer: int) -> Tensor:
        return super().attend(x * x.shape[1] ** 0.5, layer)


class LogLength(Bad):
    """Scaled as in log-length attention; `math.log` asks the length for its value."""

    def attend(self, x: Tensor, layer: int) -> Tensor:
        return super().attend(x * math.log(x.shape[1]), layer)


class LengthAsTensor(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x * torch.full((), x.shape[1], dtype=torch.float64).log()


class LengthThroughATable(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x * torch.arange(x.shape[1]).double().max()


class DynamicRotary(Bad):
    """The base grows with the length, as in dynamic NTK scaling."""

    def turn(self, x: Tensor) -> Tensor:
        turns = angles(x.shape[2], x.shape[3]) / (1 + x.shape[2])
        return rotated(x, turns.cos(), turns.sin())


class LateRotary(Bad):
    """Scaled only for canvases longer than eight."""

    def turn(self, x: Tensor) -> Tensor:
        longest = torch.arange(x.shape[2]).amax()
        turns = angles(x.shape[2], x.shape[3]) * torch.where(longest > 8, 0.5, 1.0)
        return rotated(x, turns.cos(), turns.sin())


class NormalisedPositions(Bad):
    def place(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], dtype=torch.float64)
        return x + (positions / positions.max())[:, None]


class CountedFromTheEnd(Bad):
    def place(self, x: Tensor) -> Tensor:
        return x + self.places(x.shape[1] - 1 - torch.arange(x.shape[1]))


class TableAsMatrix(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        table = sinusoids(x.shape[1])
        return x @ (table.T @ table)


class PositionByPosition(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        distance = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        return distance.double().softmax(-1) @ x


class BatchMean(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class BatchSoftmax(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.softmax(0)


class BatchFlip(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x.flip(0)


class BatchSize(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x / x.shape[0]


class PlaceInTheBatch(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x * torch.arange(x.shape[0], dtype=torch.float64)[:, None, None]


class TablePerSequence(Bad):
    def place(self, x: Tensor) -> Tensor:
        ids = torch.arange(x.shape[1]) + torch.arange(x.shape[0])[:, None]
        return x + self.places(ids % LONGEST)


class SequenceFirst(Bad):
    """Nothing is mixed, but rows could not be picked per sequence."""

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.qkv[layer](x.transpose(0, 1)).chunk(3, dim=-1)
        y = F.scaled_dot_product_attention(*(p.unsqueeze(1) for p in (q, k, v)))
        return y.squeeze(1).transpose(0, 1)


class ReadsTheTokens(Bad):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        return x * tokens.sum().item()


ACCUMULATES = "accumulates over the sequence"
MOVES = "moves rows to other positions"
POOLS = "pools the sequence or the batch into one value"
MULTIPLIES = "multiplies positions or sequences with one another"
SOFTMAX = "is a softmax over the sequence or the batch outside attention"
PICKS = "picks rows by where they stand"
ELSEWHERE = "attends over another axis than the positions"
CHANGES = "changes with the canvas length"
NUMBER = "uses the batch size or the sequence length as a number"
BATCH = "depends on the batch, or differs between its sequences"


BAD = [
    (Convolution, "aten.conv1d.default", "is a convolution and mixes neighbouring positions"),
    (CumulativeSum, "aten.cumsum.default", ACCUMULATES),
    (Roll, "aten.roll.default", MOVES),
    (Flip, "aten.flip.default", MOVES),
    (Softmax, "aten.softmax.int", SOFTMAX),
    (Sort, "aten.sort.default", "puts rows to other positions"),
    (Mean, "aten.mean.dim", POOLS),
    (PositionsFromTokens, "aten.cumsum.default", ACCUMULATES),
    (MixingProduct, "aten.matmul.default", MULTIPLIES),
    (CappedAttention, "aten.matmul.default", MULTIPLIES),
    (RootLength, "aten.mul.Tensor", NUMBER),
    (LengthAsTensor, "aten.log.default", CHANGES),
    (DynamicRotary, "aten.cos.default", CHANGES),
    (LateRotary, "aten.cos.default", CHANGES),
    (NormalisedPositions, "aten.unsqueeze.default", CHANGES),
    (BatchMean, "aten.mean.dim", "in which the batch is no axis"),
    (BatchSoftmax, "aten.softmax.int", SOFTMAX),
    (PlaceInTheBatch, "aten.unsqueeze.default", BATCH),
    (TablePerSequence, "aten.embedding.default", BATCH),
]
MORE_BAD = [
    (ShiftBySlices, "aten.pad.default", "adds, repeats or shifts rows"),
    (MaskRatio, "aten.mean.dim", POOLS),
    (MixingEinsum, "aten.einsum.default", MULTIPLIES),
    (Fourier, "aten.fft_fft.default", "every position sees every other"),
    (NormOverTheSequence, "aten.linalg_vector_norm.default", POOLS),
    (Gather, "aten.gather.default", PICKS),
    (FirstToken, "aten.slice.Tensor", PICKS),
    (MergedAxes, "aten.reshape.default", "merges positions with something else"),
    (PositionMajorAttention, "dllmc.attention.default", ELSEWHERE),
    (LengthThroughATable, "aten.max.default", CHANGES),
    (CountedFromTheEnd, "aten.embedding.default", CHANGES),
    (TableAsMatrix, "aten.matmul.default", CHANGES),
    (PositionByPosition, "aten.matmul.default", MULTIPLIES),
    (BatchFlip, "aten.flip.default", MOVES),
    (BatchSize, "aten.div.Tensor", NUMBER),
    (SequenceFirst, "dllmc.attention.default", ELSEWHERE),
    (ReadsTheTokens, "aten.sum.default", POOLS),
]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in MORE_BAD]


@pytest.mark.parametrize(
    ("kind", "operator", "reason"), [*BAD, *SLOW], ids=lambda v: getattr(v, "__name__", "")
)
def test_refused_by_name_with_the_reason(kind: type[Bad], operator: str, reason: str) -> None:
    graph, context = captured(kind(), SPEC)
    with pytest.raises(NotPositionWiseError) as caught:
        run_passes(graph, context, {})
    assert f"({operator})" in str(caught.value)
    assert reason in str(caught.value)


def test_the_message_names_the_source_line() -> None:
    graph, context = captured(CumulativeSum(), SPEC)
    line = r"at test_positionalise_refuses\.py:\d+ `return x\.cumsum\(1\)` accumulates"
    with pytest.raises(NotPositionWiseError, match=line):
        run_passes(graph, context, {})


def test_causal_attention_is_no_denoiser() -> None:
    graph, context = captured(Causal(), SPEC)
    with pytest.raises(NotADenoiserError, match="is causal"):
        run_passes(graph, context, {})


def test_a_causal_mask_is_no_denoiser() -> None:
    graph, context = captured(Masked(), SPEC)
    with pytest.raises(NotADenoiserError, match="has a causal mask"):
        run_passes(graph, context, {})


def test_what_export_refuses_is_wrapped() -> None:
    with pytest.raises(CaptureError, match=r"cannot capture ShiftByJoining: .*length"):
        captured(ShiftByJoining(), SPEC)
    with pytest.raises(
        CaptureError, match="LogLength: a shape is frozen at the example's `length` = 7"
    ):
        captured(LogLength(), SPEC)


@pytest.mark.parametrize("length", [33, 64])
def test_a_table_that_is_too_short_is_refused(length: int) -> None:
    spec: Any = DenoiserSpec(**(SPEC.model_dump() | {"max_length": length}))
    graph, context = captured(Toy(), spec)
    with pytest.raises(NotPositionWiseError, match="set the spec's `max_length`"):
        run_passes(graph, context, {})
