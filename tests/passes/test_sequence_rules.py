"""Rules of single operators: accepted over features, refused over positions and sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from graphs.toys import SPEC, VOCAB, WIDTH
from torch import Tensor, nn

from dllmc.compiler.capture import capture
from dllmc.passes import PassContext, PassResult
from dllmc.passes._graph import placeholder
from dllmc.passes._sequence import analyse
from dllmc.passes.remove_noops import RemoveNoops
from dllmc.spec import NotPositionWiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    Operation = Callable[[Tensor], Tensor]


class One(nn.Module):
    """An embedding and one operation on `[B, T, 16]`."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH).double().requires_grad_(False)
        self.operation = operation

    def forward(self, tokens: Tensor) -> Tensor:
        return self.operation(self.embed(tokens))


def proved(operation: Operation) -> int:
    """The sequence axis of what `operation` gives, as the analysis says."""
    graph = capture(One(operation).eval(), SPEC)
    removed: PassResult = RemoveNoops().run(graph, PassContext(SPEC, 0))
    assert removed.name == "remove_noops"
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return analyse(graph.graph, placeholder(graph, "tokens")).axis[output.args[0][0]]


ONES = torch.ones(WIDTH, dtype=torch.float64)
EYE = torch.eye(WIDTH, dtype=torch.float64)


def kept_statistics(x: Tensor) -> Tensor:
    return F.batch_norm(x.transpose(1, 2), ONES, ONES).transpose(1, 2)


def as_pairs(x: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * 1j).flatten(2)


OVER_FEATURES: dict[str, tuple[Operation, int]] = {
    "roll": (lambda x: x.roll(1, dims=-1), 1),
    "flip": (lambda x: x.flip(-1), 1),
    "pad": (lambda x: F.pad(x, (1, -1)), 1),
    "sort": (lambda x: x.sort(dim=-1).values, 1),
    "argsort": (lambda x: x.argsort(dim=-1).double(), 1),
    "cumprod": (lambda x: x.cumprod(dim=-1), 1),
    "fft": (lambda x: torch.fft.fft(x, dim=-1).real, 1),
    "imaginary part": (lambda x: torch.fft.fft(x, dim=2).imag, 1),
    "pairs as complex numbers": (as_pairs, 1),
    "every other": (lambda x: torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2), 1),
    "std": (lambda x: x - x.std(-1, keepdim=True), 1),
    "var": (lambda x: x.var(-1, unbiased=False), 1),
    "norm": (lambda x: x / x.norm(dim=-1, keepdim=True), 1),
    "F.normalize": (lambda x: F.normalize(x, dim=-1), 1),
    "repeat": (lambda x: x.repeat(1, 1, 3), 1),
    "repeat in front": (lambda x: x[:, None].repeat(1, 4, 1, 1), 2),
    "expand_as": (lambda x: x[..., :1].expand_as(x), 1),
    "view_as": (lambda x: x.unflatten(-1, (4, 4)).view_as(x), 1),
    "mT": (lambda x: x.mT, 2),
    "swapaxes": (lambda x: x.swapaxes(1, 2), 2),
    "one_hot": (lambda x: F.one_hot(x.argmax(-1), WIDTH).double(), 1),
    "lookup": (lambda x: EYE[x.argmax(-1)], 1),
    "chosen features": (lambda x: x[..., torch.tensor([1, 0, 5])], 1),
    "chosen heads": (lambda x: x[:, None][:, torch.tensor([[0, 0], [0, 0]])], 3),
    "index_select": (lambda x: x.index_select(-1, torch.tensor([1, 0])), 1),
    "kept statistics": (kept_statistics, 1),
}
OVER_POSITIONS: dict[str, Operation] = {
    "roll": lambda x: x.roll(1, dims=1),
    "roll both": lambda x: x.roll((1, 1), dims=(2, 1)),
    "roll all": lambda x: x.roll(1),
    "flip": lambda x: x.flip(1),
    "pad": lambda x: F.pad(x, (0, 0, 1, -1)),
    "sort": lambda x: x.sort(dim=1).values,
    "argsort": lambda x: x.argsort(dim=-2).double(),
    "cumprod": lambda x: x.cumprod(dim=1),
    "fft": lambda x: torch.fft.fft(x, dim=1).real,
    "pairs of positions": lambda x: torch.view_as_real(
        torch.view_as_complex(x.unflatten(2, (8, 2))).sum(1, keepdim=True)
    ),
    "std": lambda x: x - x.std(1, keepdim=True),
    "var": lambda x: x - x.var((1, 2), unbiased=False, keepdim=True),
    "norm": lambda x: x / x.norm(dim=1, keepdim=True),
    "norm of all": lambda x: x / x.norm(),
    "repeat": lambda x: x.repeat(1, 2, 1),
    "mT": lambda x: x.mT.softmax(-1),
    "fresh statistics": lambda x: F.batch_norm(x.mT, None, None, training=True).mT,
    "index": lambda x: x[:, torch.arange(x.shape[1]).flip(0)],
    "index_select": lambda x: x.index_select(1, torch.arange(x.shape[1]).flip(0)),
    "features by tokens": lambda x: x[..., x.argmax(-1)[0]],
    "expand_as of a constant": lambda x: x[:, :1].expand_as(x),
}
OVER_SEQUENCES: dict[str, Operation] = {
    "roll": lambda x: x.roll(1, dims=0),
    "flip": lambda x: x.flip((2, 0)),
    "pad": lambda x: F.pad(x, (0, 0, 0, 0, 1, -1)),
    "sort": lambda x: x.sort(dim=0).values,
    "argsort": lambda x: x.argsort(dim=0).double(),
    "cumprod": lambda x: x.cumprod(dim=0),
    "fft": lambda x: torch.fft.fft(x, dim=0).real,
    "std": lambda x: x - x.std(0, keepdim=True),
    "norm": lambda x: x / x.norm(dim=0, keepdim=True),
    "repeat": lambda x: x.repeat(2, 1, 1),
    "swapaxes": lambda x: x.swapaxes(0, 2).softmax(-1),
    "index_select": lambda x: x.index_select(0, torch.arange(x.shape[0]).flip(0)),
    "index": lambda x: x[torch.arange(x.shape[0]).flip(0)],
}


@pytest.mark.parametrize("name", OVER_FEATURES)
def test_accepted_over_features(name: str) -> None:
    operation, axis = OVER_FEATURES[name]
    assert proved(operation) == axis


@pytest.mark.parametrize("name", OVER_POSITIONS)
def test_refused_over_positions(name: str) -> None:
    with pytest.raises(NotPositionWiseError):
        proved(OVER_POSITIONS[name])


@pytest.mark.parametrize("name", OVER_SEQUENCES)
def test_refused_over_sequences(name: str) -> None:
    with pytest.raises(NotPositionWiseError):
        proved(OVER_SEQUENCES[name])
