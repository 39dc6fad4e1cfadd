from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dllmc.kernels import canonical, implementation, implementations

GREEDY, SAMPLED = canonical("head_statistics"), canonical("sampled_head_statistics")
MASK = 3
# On a CPU Triton's run in its interpreter only: triton/test_head_statistics.py.
NAMES = sorted(implementations("head_statistics") - {"measured", "triton"})


def drawn(
    batch: int, rows: int, width: int, vocab: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = torch.randn(batch, rows, width), 2 * torch.randn(vocab, width) / width**0.5
    return x.to(dtype), weight.to(dtype), torch.randn(vocab).to(dtype)


def exact(x: Tensor, weight: Tensor, bias: Tensor | None) -> np.ndarray[Any, Any]:
    logits = x.double().numpy() @ weight.double().numpy().T
    return logits if bias is None else logits + bias.double().numpy()


def tails(logits: np.ndarray[Any, Any], ids: Tensor) -> Tensor:
    """Sum of exp(logit - candidate's logit) over all tokens but the candidate."""
    out = torch.zeros(ids.shape, dtype=torch.float64)
    for index in np.ndindex(tuple(ids.shape)):
        row, candidate = logits[index], int(ids[index])
        out[index] = np.exp(np.delete(row, candidate) - row[candidate]).sum()
    return out


def counters(batch: int, rows: int, temperature: float, seed: int = 5) -> tuple[Tensor, ...]:
    zeros = torch.zeros(batch, dtype=torch.int64)
    positions = torch.arange(rows).expand(batch, rows)
    return (torch.full((batch,), temperature), zeros + seed, torch.arange(batch), positions, zeros)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 4, 7), (2, 5, 16, 63), (3, 2, 33, 130)], ids=str)
def test_candidate_its_logit_and_its_tail_mass(
    sizes: tuple[int, int, int, int], biased: bool, name: str
) -> None:
    dtype = torch.float64 if name == "torch" else torch.float32
    x, weight, bias = drawn(*sizes, dtype)
    logits = exact(x, weight, bias if biased else None)
    statistics = implementation("head_statistics", name)
    ids, chosen, tail = statistics(x, weight, bias if biased else None, MASK)
    allowed = logits.copy()
    allowed[..., MASK] = -np.inf
    assert ids.dtype == torch.int64
    assert ids.tolist() == allowed.argmax(-1).tolist()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        chosen.double(), torch.from_numpy(allowed.max(-1)), rtol=tolerance, atol=tolerance
    )
    torch.testing.assert_close(tail.double(), tails(logits, ids), rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_gives_float32_statistics(dtype: torch.dtype) -> None:
    x, weight, _ = drawn(2, 3, 32, 50, dtype)
    ids, chosen, tail = GREEDY(x, weight, None, MASK)
    assert (chosen.dtype, tail.dtype) == (torch.float32, torch.float32)
    # Of the logits that a half-precision product gives, the statistics are exact.
    rounded = torch.nn.functional.linear(x, weight).double().numpy()
    torch.testing.assert_close(tail.double(), tails(rounded, ids), rtol=1e-5, atol=0)


def test_the_mask_is_never_the_candidate_but_weighs_in_its_tail() -> None:
    weight = torch.eye(6, dtype=torch.float64)
    x = torch.tensor([[[0.0, 1.0, 2.0, 5.0, 0.0, 0.0]]], dtype=torch.float64)
    ids, chosen, tail = GREEDY(x, weight, None, MASK)
    assert (ids.item(), chosen.item()) == (2, 2.0)
    assert tail.item() == pytest.approx(np.exp(3) + np.exp(-1) + 3 * np.exp(-2), rel=1e-14)


def test_equal_logits_go_to_the_lowest_id() -> None:
    x = torch.tensor([[[1.0, 4.0, 4.0, 4.0]]])
    ids, chosen, tail = GREEDY(x, torch.eye(4), None, 1)
    assert (ids.item(), chosen.item()) == (2, 4.0)
    assert tail.item() == pytest.approx(2 + np.exp(-3))


def test_tail_mass_tells_apart_rows_whose_float32_probability_is_one() -> None:
    logits = torch.full((1, 3, 8), 0.0)
    logits[0, :, 0] = torch.tensor([20.0, 22.0, 21.0])
    probability = torch.softmax(logits, -1)[..., 0]
    assert probability[0].tolist() == [1.0, 1.0, 1.0]
    _, _, tail = GREEDY(logits, torch.eye(8), None, MASK)
    assert tail[0].argsort().tolist() == [1, 2, 0]
    expected = [7 * np.exp(-20), 7 * np.exp(-22), 7 * np.exp(-21)]
    assert tail[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_hopeless_candidate_has_an_infinite_tail_and_no_nan() -> None:
    x = torch.tensor([[[0.0, 0.0, 0.0, 1000.0]]])
    ids, chosen, tail = GREEDY(x, torch.eye(4), None, MASK)
    assert (ids.item(), chosen.item(), tail.item()) == (0, 0.0, np.inf)


@pytest.mark.parametrize("name", NAMES)
def test_at_temperature_zero_sampling_is_greedy(name: str) -> None:
    dtype = torch.float64 if name == "torch" else torch.float32
    x, weight, bias = drawn(4, 7, 16, 63, dtype)
    greedy = implementation("head_statistics", name)(x, weight, bias, MASK)
    sampled = implementation("sampled_head_statistics", name)(
        x, weight, bias, MASK, *counters(4, 7, 0.0)
    )
    assert torch.equal(greedy[0], sampled[0])
    torch.testing.assert_close(greedy[1:], sampled[1:], rtol=0, atol=0)


def test_a_drawn_candidate_has_its_own_logit_and_tail_without_noise() -> None:
    x, weight, bias = drawn(3, 9, 16, 40)
    logits = exact(x, weight, bias)
    ids, chosen, tail = SAMPLED(x, weight, bias, MASK, *counters(3, 9, 2.0))
    assert (ids != GREEDY(x, weight, bias, MASK)[0]).sum() > 5
    assert (ids != MASK).all()
    own = np.take_along_axis(logits, ids.numpy()[..., None], -1)[..., 0]
    torch.testing.assert_close(chosen, torch.from_numpy(own), rtol=0, atol=1e-12)
    torch.testing.assert_close(tail, tails(logits, ids), rtol=1e-12, atol=0)


def test_each_sequence_has_a_temperature_of_its_own() -> None:
    x, weight, _ = drawn(1, 9, 16, 40)
    both = [t.expand(2, *t.shape[1:]) for t in (x,)]
    temperature, *rest = counters(2, 9, 0.0)
    temperature = torch.tensor([0.0, 3.0])
    ids, _, _ = SAMPLED(both[0], weight, None, MASK, temperature, *rest)
    greedy = GREEDY(x, weight, None, MASK)[0][0]
    assert torch.equal(ids[0], greedy)
    assert not torch.equal(ids[1], greedy)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_candidates_are_drawn_in_proportion(temperature: float) -> None:
    draws, vocab = 20_000, 9
    logits = torch.tensor([1.0, 0.2, -0.5, 2.0, 0.0, -1.0, 0.7, 0.7, -2.0])
    x = logits.expand(1, draws, vocab)
    ids, _, _ = SAMPLED(x, torch.eye(vocab), None, MASK, *counters(1, draws, temperature, seed=41))
    weights = np.exp(logits.double().numpy() / temperature)
    weights[MASK] = 0
    expected = draws * weights / weights.sum()
    seen = np.bincount(ids[0].numpy(), minlength=vocab)
    assert seen[MASK] == 0
    others = np.arange(vocab) != MASK
    square = ((seen - expected)[others] ** 2 / expected[others]).sum()
    # Seven degrees of freedom: one seed in a thousand is above 24.3.
    assert square < 24.3
