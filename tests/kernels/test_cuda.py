"""Every operator computes on a GPU what it computes on a CPU in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from joint.layers import drawn_layer
from torch import Tensor

from dllmc.kernels import canonical, canonical_names, implementation, implementations
from dllmc.policies.verify._joint_layer import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.gpu

BATCH, ROWS, WIDTH, VOCAB, HEADS, GROUPS, SLOTS = 3, 7, 48, 203, 6, 2, 29
FLOATS = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 6e-2, torch.float16: 8e-3}


def integers(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape)


def slots() -> Tensor:
    """Each row of a sequence is written somewhere else."""
    return torch.stack([torch.randperm(SLOTS)[:ROWS] for _ in range(BATCH)])


def cache(width: int = 8) -> Tensor:
    return torch.randn(BATCH, GROUPS, SLOTS, width)


def counters() -> list[Any]:
    temperature = torch.tensor([0.0, 0.7, 2.0])
    return [temperature, *(integers(99, BATCH) for _ in range(2)), integers(SLOTS, BATCH, ROWS)]


def joint_layer() -> list[Any]:
    layer = drawn_layer(WIDTH)
    offered = integers(2, BATCH, ROWS).bool()
    rows = [x(), x(), integers(SLOTS, BATCH, ROWS), offered | (torch.arange(ROWS) == 0)]
    return [*rows, [layer.weights[name] for name in NAMES], layer.heads, layer.theta]


def logits() -> Tensor:
    """All different in every dtype, so that their order is not a matter of rounding."""
    order = torch.stack([torch.randperm(VOCAB) for _ in range(BATCH * ROWS)])
    return (order.view(BATCH, ROWS, VOCAB) - 150) / 16


def attention() -> list[Any]:
    q = torch.randn(BATCH, HEADS, ROWS, 8)
    return [q, *(torch.randn(BATCH, GROUPS, ROWS, 8) for _ in range(2)), 0.3]


def x(width: int = WIDTH) -> Tensor:
    return torch.randn(BATCH, ROWS, width)


def weight(rows: int = VOCAB) -> Tensor:
    return torch.randn(rows, WIDTH) / WIDTH**0.5


ARGUMENTS: dict[str, Callable[[], list[Any]]] = {
    "all_logits": lambda: [logits()],
    "attention": attention,
    "cached_attention": lambda: [
        *attention()[:3],
        cache(),
        cache(),
        slots(),
        1 + integers(SLOTS, BATCH),
        0.3,
    ],
    "entropy": lambda: [logits()],
    "experts": lambda: [
        x(),
        torch.stack([torch.randperm(5)[:2] for _ in range(BATCH * ROWS)]).view(BATCH, ROWS, 2),
        torch.rand(BATCH, ROWS, 2),
        torch.randn(5, 64, WIDTH) / WIDTH**0.5,
        torch.randn(5, WIDTH, 32) / 32**0.5,
    ],
    "gather_logits": lambda: [logits(), integers(VOCAB, BATCH, ROWS, 3)],
    "gather_rows": lambda: [x(), integers(ROWS, BATCH, 4), 1],
    "head_statistics": lambda: [x(), 3 * weight(), None, 7],
    "held": lambda: [integers(9, BATCH, ROWS)],
    "int4_linear": lambda: [
        x(64),
        integers(256, VOCAB, 32).to(torch.uint8),
        torch.rand(VOCAB, 2) / 8,
        None,
    ],
    "int8_linear": lambda: [
        x(),
        (integers(255, VOCAB, WIDTH) - 127).to(torch.int8),
        torch.rand(VOCAB) / 64,
        None,
    ],
    "joint_layer": joint_layer,
    "linear": lambda: [x(), weight(), torch.randn(VOCAB)],
    "mixture": lambda: [weight(), integers(VOCAB, BATCH, ROWS, 3), torch.rand(BATCH, ROWS, 3)],
    "position_bias": lambda: [
        torch.randn(HEADS, 2 * SLOTS - 1),
        integers(SLOTS, BATCH, ROWS),
        integers(SLOTS, BATCH, SLOTS),
    ],
    "rms_norm": lambda: [x(), torch.randn(WIDTH), 1e-5],
    "rotary": lambda: [
        torch.randn(BATCH, HEADS, ROWS, 8),
        torch.randn(BATCH, 1, ROWS, 8),
        torch.randn(BATCH, 1, ROWS, 8),
    ],
    "row_positions": lambda: [integers(9, BATCH, ROWS)],
    "saliency": lambda: [torch.randn(BATCH, HEADS, ROWS, 8), cache(), torch.rand(BATCH, ROWS)],
    "sampled_head_statistics": lambda: [
        x(),
        3 * weight(),
        None,
        7,
        *counters(),
        integers(9, BATCH),
    ],
    "sampled_statistics": lambda: [logits(), 7, *counters(), integers(9, BATCH)],
    "second": lambda: [logits(), integers(VOCAB, BATCH, ROWS), 7],
    "statistics": lambda: [logits(), 7],
    "swiglu": lambda: [x(), x()],
    "top": lambda: [logits(), 7, 4],
    "write_cache": lambda: [*attention()[1:3], cache(), cache(), slots()],
}
# Never on a GPU.
OF_A_CPU = {"onednn", "packed", "sorted"}


def moved(value: Any, device: str, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [moved(each, device, dtype) for each in value]
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else value.dtype)


def results(target: Any, arguments: list[Any]) -> list[Tensor]:
    """What an operator returns, and what it has changed its arguments to."""
    returned = target(*arguments)
    found = list(returned) if isinstance(returned, tuple) else [returned]
    return [t for t in (*found, *arguments) if isinstance(t, Tensor)]


def test_every_operator_is_among_those_that_are_tried() -> None:
    assert set(ARGUMENTS) == set(canonical_names())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_same_as_in_float64(name: str, dtype: torch.dtype) -> None:
    # Rounded first, so that both compute with the same numbers.
    given = moved(ARGUMENTS[name](), "cpu", dtype)
    exact = results(canonical(name), moved(given, "cpu", torch.float64))
    # A head's logits are rounded to its dtype: of two that become one, either may be the largest.
    rounded = "head" in name and torch.finfo(dtype).bits == 16
    for which in implementations(name) - OF_A_CPU:
        if which == "grouped" and dtype != torch.bfloat16:
            continue
        found = results(implementation(name, which), moved(given, "cuda", dtype))
        assert all(each.is_cuda for each in found)
        for index, (one, other) in enumerate(zip(found, exact, strict=True)):
            if index == 1 or not (rounded and index < 3):
                compare(one.cpu(), other, FLOATS[dtype])


def compare(found: Tensor, exact: Tensor, tolerance: float) -> None:
    if found.is_floating_point():
        # Some results are float32 whatever they are computed from.
        tolerance = max(tolerance, 4 * torch.finfo(exact.dtype).eps)
        scale = float(exact[exact.isfinite()].abs().max())
        torch.testing.assert_close(
            found.double(), exact.double(), rtol=tolerance, atol=tolerance * scale
        )
    else:
        assert torch.equal(found, exact)
