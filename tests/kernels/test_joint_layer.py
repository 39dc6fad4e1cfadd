from __future__ import annotations

import numpy as np
import pytest
import torch
from joint.layers import drawn_layer

from dllmc.kernels import implementation
from dllmc.policies.verify._joint_layer import NAMES, JointLayer

LAYER = implementation("joint_layer", "torch")
BATCH, ROWS, WIDTH, HEADS = 3, 5, 24, 3


def run(
    layer: JointLayer,
    hidden: torch.Tensor,
    embedded: torch.Tensor,
    positions: torch.Tensor,
    offered: torch.Tensor,
) -> torch.Tensor:
    weights = [layer.weights[name].to(hidden.dtype) for name in NAMES]
    result: torch.Tensor = LAYER(
        hidden, embedded, positions, offered, weights, layer.heads, layer.theta
    )
    return result


def drawn(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    hidden, embedded = torch.randn(2, BATCH, ROWS, WIDTH, dtype=dtype).unbind(0)
    positions = torch.tensor([[3, 4, 5, 6, 7], [0, 2, 9, 0, 0], [30, 0, 0, 0, 0]])
    offered = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    return hidden, embedded, positions, offered


def test_it_is_what_the_oracle_computes_row_by_row() -> None:
    layer = drawn_layer(WIDTH, HEADS)
    hidden, embedded, positions, offered = drawn()
    found = run(layer, hidden, embedded, positions, offered)
    for row in range(BATCH):
        held = offered[row]
        given = hidden[row, held].numpy(), embedded[row, held].numpy(), positions[row, held]
        expected = layer.oracle(list(given[0]), list(given[1]), given[2].tolist())
        np.testing.assert_allclose(found[row, held].numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25), (torch.float16, 0.03)]
)
def test_less_precise_types_are_as_close_as_they_can_be(
    dtype: torch.dtype, tolerance: float
) -> None:
    layer = drawn_layer(WIDTH, HEADS)
    hidden, embedded, positions, offered = drawn()
    exact = run(layer, hidden, embedded, positions, offered)[offered]
    found = run(layer, hidden.to(dtype), embedded.to(dtype), positions, offered)[offered]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)


def test_padding_changes_nothing() -> None:
    layer = drawn_layer(WIDTH, HEADS)
    hidden, embedded, positions, offered = drawn()
    expected = run(layer, hidden, embedded, positions, offered)[offered]
    spare = ~offered
    hidden[spare], embedded[spare], positions[spare] = 1e6, -1e6, 12345
    assert torch.equal(run(layer, hidden, embedded, positions, offered)[offered], expected)


def test_a_sequence_of_padding_alone_stays_finite() -> None:
    layer = drawn_layer(WIDTH, HEADS)
    hidden, embedded, positions, offered = drawn()
    offered[1] = False
    assert bool(run(layer, hidden, embedded, positions, offered).isfinite().all())


def test_a_layer_that_adds_nothing_leaves_the_hidden_states() -> None:
    layer = drawn_layer(WIDTH, HEADS, out=0.0)
    hidden, embedded, positions, offered = drawn()
    assert torch.equal(run(layer, hidden, embedded, positions, offered), hidden)


def test_every_row_sees_the_tokens_of_the_others() -> None:
    layer = drawn_layer(WIDTH, HEADS)
    hidden, embedded, positions, offered = drawn()
    before = run(layer, hidden, embedded, positions, offered)
    embedded[0, 2] += 1
    changed = (run(layer, hidden, embedded, positions, offered) != before).any(-1)
    assert changed.tolist() == [[True] * ROWS, [False] * ROWS, [False] * ROWS]
