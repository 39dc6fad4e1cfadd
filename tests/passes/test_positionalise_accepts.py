"""Models that are position-wise outside attention, spelt in many ways."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from graphs.passing import captured, inputs, operators
from graphs.toys import HEADS, LONGEST, MASK, SPEC, WIDTH, Toy, angles, rotated, sinusoids
from torch import Tensor, nn

from dllmc.compiler.pipeline import run_passes
from dllmc.compiler.verify import Probe


class Unsqueezed(Toy):
    def place(self, x: Tensor) -> Tensor:
        return x + self.places(torch.arange(x.shape[1])).unsqueeze(0)


class FromIds(Toy):
    def place(self, x: Tensor) -> Tensor:
        ids = torch.arange(x.shape[1]).unsqueeze(0).expand(x.shape[0], -1)
        return x + self.places(ids)


class Sliced(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", sinusoids(LONGEST)[None])

    def place(self, x: Tensor) -> Tensor:
        return x + self.table[:, : x.shape[1]]


class Sinusoidal(Toy):
    def place(self, x: Tensor) -> Tensor:
        return x + sinusoids(x.shape[1])


class Joined(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Linear(2 * WIDTH, WIDTH).double().requires_grad_(False)

    def place(self, x: Tensor) -> Tensor:
        table = sinusoids(x.shape[1]).expand(x.shape[0], -1, -1)
        return self.join(torch.cat((x, table), dim=-1))


class NoPositions(Toy):
    def place(self, x: Tensor) -> Tensor:
        return x


class RotaryOfRank2(Toy):
    def turn(self, x: Tensor) -> Tensor:
        turns = angles(x.shape[2], x.shape[3])
        return rotated(x, turns.cos(), turns.sin())


class RotaryOfRank3(Toy):
    def turn(self, x: Tensor) -> Tensor:
        turns = angles(x.shape[2], x.shape[3])[None]
        return rotated(x, turns.cos(), turns.sin())


class RotaryOfRank4(Toy):
    def turn(self, x: Tensor) -> Tensor:
        turns = angles(x.shape[2], x.shape[3])[None, None]
        return rotated(x, turns.cos(), turns.sin())


class RotaryBeforeTheHeadsMove(Toy):
    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in qkv.chunk(3, dim=-1))
        turns = angles(q.shape[1], q.shape[3])[None, :, None]
        q, k = (rotated(part, turns.cos(), turns.sin()) for part in (q, k))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class RotaryOfEachSequence(Toy):
    """As in transformers: the table is a product over expanded position ids."""

    def turn(self, x: Tensor) -> Tensor:
        batch, _, length, width = x.shape
        ids = torch.arange(length)[None].expand(batch, -1)
        rates = 10.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        half = rates[None, :, None].expand(batch, -1, 1) @ ids[:, None, :].double()
        half = half.transpose(1, 2)
        turns = torch.cat((half, half), dim=-1)
        return rotated(x, turns.cos().unsqueeze(1), turns.sin().unsqueeze(1))


class RotaryFromABuffer(Toy):
    def __init__(self) -> None:
        super().__init__()
        turns = angles(LONGEST, WIDTH // HEADS)
        self.register_buffer("cos", turns.cos())
        self.register_buffer("sin", turns.sin())

    def turn(self, x: Tensor) -> Tensor:
        ids = torch.arange(x.shape[2])
        return rotated(x, self.cos[ids], self.sin[ids].type_as(x))


class HalfRotary(Toy):
    """Only half of each head turns."""

    def turn(self, x: Tensor) -> Tensor:
        turned, plain = x.split(x.shape[-1] // 2, dim=-1)
        turns = angles(x.shape[2], x.shape[3] // 2)
        return torch.cat((rotated(turned, turns.cos(), turns.sin()), plain), dim=-1)


class Unbound(Toy):
    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = qkv.shape
        parts = qkv.reshape(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return parts.unbind(0)


class Indexed(Toy):
    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = qkv.shape
        parts = qkv.reshape(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]


class SplitBySizes(Toy):
    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = qkv.shape
        parts = qkv.split([WIDTH, WIDTH, WIDTH], dim=2)
        return tuple(part.view(batch, length, HEADS, -1).transpose(1, 2) for part in parts)


class RotatedTogether(Toy):
    """Q and K turn as one tensor whose batch is its second axis."""

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        batch, length, _ = qkv.shape
        parts = qkv.reshape(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        turns = angles(length, parts.shape[-1])
        both = rotated(parts[:2], turns.cos(), turns.sin())
        return both[0], both[1], parts[2]


class ByEinsum(Toy):
    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        eye = torch.eye(WIDTH, dtype=torch.float64).view(WIDTH, HEADS, -1)
        parts = qkv.chunk(3, dim=-1)
        return tuple(torch.einsum("btc,chd->bhtd", part, eye) for part in parts)


class InPlace(Toy):
    def place(self, x: Tensor) -> Tensor:
        x += self.places(torch.arange(x.shape[1]))
        return x

    def feed(self, x: Tensor, layer: int) -> Tensor:
        hidden = F.gelu(self.up[layer](x))
        hidden *= 0.5
        hidden.add_(1)
        return self.down[layer](hidden)


class Constants(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        # A function of the length that has the same value for every length.
        one = torch.arange(x.shape[1], dtype=torch.float64)[:1].cos().squeeze(0)
        zeros = torch.zeros(x.shape[0], 1, WIDTH, dtype=torch.float64)
        return x * math.sqrt(WIDTH) * torch.tensor(0.25).double().sqrt() * one + zeros


class KnowsTheMask(Toy):
    def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
        masked = (tokens == MASK).unsqueeze(-1)
        return torch.where(masked, x + 1, torch.full_like(x, 0.5) * x)


class OverFeatures(Toy):
    def feed(self, x: Tensor, layer: int) -> Tensor:
        hidden = self.up[layer](x)
        hidden = hidden.softmax(-1) + hidden.cumsum(-1) / 32 + hidden.mean(-1, keepdim=True)
        best, _ = hidden.topk(2, dim=-1)
        return self.down[layer](hidden - best.amax(-1, keepdim=True))


class SkipsToTheHead(Toy):
    def finish(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.head(x + 0.3 * self.places(tokens))


class WithoutHeads(Toy):
    """One head, whose axis is only added for attention."""

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.unsqueeze(1) for part in qkv.chunk(3, dim=-1))


# Tables gathered. Q and K of two layers each make cosine and sine anew; torch.export shares
# none of it.
SPELLINGS: list[tuple[type[Toy], int]] = [
    (Toy, 1),
    (Unsqueezed, 1),
    (FromIds, 1),
    (Sliced, 1),
    (Joined, 1),
    (RotaryOfRank2, 1 + 8),
    (RotaryOfRank4, 1 + 8),
    (RotaryBeforeTheHeadsMove, 1 + 8),
    (RotaryOfEachSequence, 1 + 8),
    (Unbound, 1),
    (Indexed, 1),
    (SplitBySizes, 1),
    (ByEinsum, 1),
    (InPlace, 1),
    (SkipsToTheHead, 1),
]
MORE_SPELLINGS: list[tuple[type[Toy], int]] = [
    (Sinusoidal, 1),
    (NoPositions, 0),
    (RotaryOfRank3, 1 + 8),
    (RotaryFromABuffer, 1 + 8),
    (HalfRotary, 1 + 8),
    (RotatedTogether, 1 + 4),
    (Constants, 1),
    (KnowsTheMask, 1),
    (OverFeatures, 1),
    (WithoutHeads, 1),
]
SLOW = [pytest.param(*spelling, marks=pytest.mark.slow) for spelling in MORE_SPELLINGS]


@pytest.mark.parametrize(
    ("kind", "tables"), [*SPELLINGS, *SLOW], ids=lambda v: getattr(v, "__name__", "")
)
def test_accepted_and_the_same_through_every_pass(kind: type[Toy], tables: int) -> None:
    probe = Probe(SPEC)
    graph, context = captured(kind(), SPEC)
    before = probe.observe(graph)
    graphs, results = run_passes(graph, context, {})
    matched = {result.name: result.matched for result in results}
    assert (matched["positionalise"], matched["insert_cache"]) == (tables, 2)
    assert set(graphs) == {"greedy", "sampled", "none"}
    for name in ("greedy", "sampled"):
        lowered = graphs[name]
        probe.compare("any", before, probe.observe(lowered))
        assert inputs(lowered)[:3] == ["tokens", "positions", "head_rows"]
        assert operators(lowered)["dllmc.gather_rows.torch"] >= 1
