from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dllmc.kernels import canonical, implementation
from dllmc.kernels._triton.configurations import shipped
from dllmc.kernels._triton.statistics import launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIGURATIONS = shipped("statistics")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-5}


def distinct(batch: int, rows: int, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """Logits of which no two are equal where `dtype` tells so many apart."""
    order = torch.stack([torch.randperm(vocabulary) for _ in range(batch * rows)])
    return ((order - vocabulary // 2) / 32).view(batch, rows, vocabulary).to(dtype)


def same(found: tuple[Tensor, ...], logits: Tensor, mask_id: int) -> None:
    ids, chosen, tails = canonical("statistics")(logits.double(), mask_id)
    assert torch.equal(found[0].cpu(), ids)
    tolerance = TOLERANCE[logits.dtype]
    torch.testing.assert_close(found[1].cpu().double(), chosen, rtol=tolerance, atol=0)
    torch.testing.assert_close(found[2].cpu().double(), tails, rtol=tolerance, atol=0)


@pytest.mark.parametrize("vocabulary", [1, 5, 203, 5001])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rows_of_any_length_as_in_float64(vocabulary: int, dtype: torch.dtype) -> None:
    logits = distinct(2, 1, vocabulary, dtype)
    found = implementation("statistics", "triton")(logits.to(DEVICE), -1)
    same(found, logits, -1)


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=str)
def test_every_configuration_that_is_shipped(config: dict[str, int]) -> None:
    logits = torch.randn(1, 1, 9000)
    same(launch(logits.to(DEVICE), 7, config=config), logits, 7)


@pytest.mark.parametrize("place", ["first", "last", "largest"])
def test_the_mask_never_wins_and_stays_in_the_tail(place: str) -> None:
    logits = distinct(1, 4, 301, torch.float32)
    mask_id = {"first": 0, "last": 300, "largest": int(logits[0, 0].argmax())}[place]
    # Far above all others: what the tail mass is summed relative to must not overflow before.
    logits[:, :, mask_id] = 60.0
    same(launch(logits.to(DEVICE), mask_id), logits, mask_id)


def test_the_lowest_of_equal_tokens_wins() -> None:
    logits = torch.zeros(1, 1, 9000)
    ids, _, tails = launch(logits.to(DEVICE), 0)
    assert ids.item() == 1
    assert tails.item() == 8999


def test_a_tail_far_below_the_candidate_keeps_its_precision() -> None:
    logits = torch.full((1, 2, 4096), -20.0)
    logits[0, 0, 5] = logits[0, 1, 4000] = 60.0
    same(launch(logits.to(DEVICE), 3), logits, 3)


def test_rows_may_stand_apart_in_memory() -> None:
    wide = distinct(2, 6, 512, torch.float32)
    logits = wide[:, ::2, 100:400]
    same(launch(logits.to(DEVICE), 9), logits, 9)
    turned = wide[..., :8].transpose(1, 2)
    same(launch(turned.to(DEVICE), 3), turned, 3)


def test_tokens_that_cannot_be_have_no_weight() -> None:
    logits = distinct(1, 2, 700, torch.float32)
    logits[..., 300:] = -torch.inf
    same(launch(logits.to(DEVICE), 2), logits, 2)


def test_drawn_candidates_are_those_of_the_plain_operator() -> None:
    logits = torch.randn(3, 2, 997)
    counters = [torch.randint(0, 99, shape) for shape in ((3,), (3,), (3, 2), (3,))]
    temperature = torch.tensor([0.0, 0.8, 3.0])
    given = [logits, 7, temperature, *counters]
    expected = canonical("sampled_statistics")(*given)
    moved = [each.to(DEVICE) if isinstance(each, Tensor) else each for each in given]
    found = implementation("sampled_statistics", "triton")(*moved)
    assert torch.equal(found[0].cpu(), expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-5, atol=0)


def test_drawn_candidates_far_below_the_largest_logit_have_a_finite_tail() -> None:
    logits = torch.randn(1, 3, 300) * 20
    counters = [torch.randint(0, 99, shape) for shape in ((1,), (1,), (1, 3), (1,))]
    given = [logits.double(), 7, torch.tensor([90.0]), *counters]
    expected = canonical("sampled_statistics")(*given)
    moved = [each.to(DEVICE) if isinstance(each, Tensor) else each for each in given]
    found = implementation("sampled_statistics", "triton")(*moved)
    assert torch.equal(found[0].cpu(), expected[0])
    torch.testing.assert_close(found[2].cpu(), expected[2], rtol=1e-9, atol=0)


def test_nothing_of_no_rows() -> None:
    assert [len(each) for each in launch(torch.randn(0, 4, 9).to(DEVICE), 1)] == [0, 0, 0]
