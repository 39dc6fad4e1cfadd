"""Which lines a canonical call came from."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from graphs.toys import SPEC, Toy
from torch import Tensor, nn

from dllmc.compiler.explain import Explanation, explain

if TYPE_CHECKING:
    from dllmc.compiler._listing import Row


class Plain(Toy):
    """Norms, attention and gate written out, each line with a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList(torch.ones(16).double() for _ in range(5))
        self.gates = nn.ModuleList(nn.Linear(16, 32) for _ in range(self.layers))
        self.double().requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in range(self.layers):
            x = x + self.out[layer](self.attend(self.root(x, 2 * layer), layer))
            y = self.root(x, 2 * layer + 1)
            gate = F.silu(self.gates[layer](y))  # the gate
            x = x + self.down[layer](gate * self.up[layer](y))  # what is gated
        return self.head(self.root(x, 4))

    def root(self, x: Tensor, index: int) -> Tensor:
        square = x.pow(2).mean(-1, keepdim=True)  # the square
        small = torch.rsqrt(square + 1e-6)  # the root
        return self.scales[index] * (x * small)  # the scale

    def attend(self, x: Tensor, layer: int) -> Tensor:
        q, k, v = self.split(self.qkv[layer](x))
        wide = k.repeat_interleave(1, dim=1)
        y = F.scaled_dot_product_attention(q, wide, v)  # the attention
        return y.transpose(1, 2).reshape(x.shape)


@pytest.fixture(scope="module")
def explained() -> Explanation:
    return explain(Plain(), spec=SPEC)


def lines(marks: str) -> set[int]:
    """Numbers of the lines of this file that end in one of these comments."""
    source = inspect.getsource(inspect.getmodule(lines)).splitlines()  # type: ignore[arg-type]
    ends = tuple(f"  # {mark}" for mark in marks.split(", "))
    return {number for number, text in enumerate(source, start=1) if text.endswith(ends)}


def rows(explained: Explanation, operator: str) -> list[Row]:
    return [
        row for section in explained.canonical for row in section.rows if row.operator == operator
    ]


@pytest.mark.parametrize(
    ("operator", "marks"),
    [
        ("dllmc.rms_norm", "the square, the root, the scale"),
        ("dllmc.swiglu", "the gate, what is gated"),
        ("dllmc.attention", "the attention"),
    ],
)
def test_a_call_has_the_lines_of_all_that_it_stands_for(
    explained: Explanation, operator: str, marks: str
) -> None:
    found = rows(explained, operator)
    assert found
    for row in found:
        assert {source.line for source in row.sources} == lines(marks)
        assert {source.file for source in row.sources} == {__file__}
        assert all("# " not in s.code or s.code.split("  # ")[1] in marks for s in row.sources)


def test_a_norm_stands_for_its_own_calls_and_no_others(explained: Explanation) -> None:
    captured = {row.name: row for section in explained.original for row in section.rows}
    norms = rows(explained, "dllmc.rms_norm")
    for norm in norms:
        operators = sorted(captured[name].operator for name in norm.captured)
        assert operators == [
            "aten.add",
            "aten.mean",
            "aten.mul",
            "aten.mul",
            "aten.pow",
            "aten.rsqrt",
        ]
    # Each captured call stands in one canonical call alone.
    names = [name for norm in norms for name in norm.captured]
    assert len(names) == len(set(names)) == 5 * 6


def test_what_no_pass_touched_is_itself(explained: Explanation) -> None:
    captured = {row.name: row for section in explained.original for row in section.rows}
    [embedding] = rows(explained, "aten.embedding")
    assert embedding.captured == (embedding.name,)
    assert embedding.sources == captured[embedding.name].sources
    assert not embedding.is_canonical


def test_every_captured_call_is_counted_once(explained: Explanation) -> None:
    names = [
        name for section in explained.canonical for row in section.rows for name in row.captured
    ]
    known = {row.name for section in explained.original for row in section.rows}
    assert set(names) <= known
    assert len(names) == len(set(names))
