from __future__ import annotations

import math

import pytest
import torch

from dllmc.kernels import canonical

MASK = 7
HALVES = [torch.bfloat16, torch.float16]
ALL = [torch.float64, torch.float32, *HALVES]


def drawn(dtype: torch.dtype, scale: float = 3.0) -> torch.Tensor:
    return (scale * torch.randn(3, 5, 63, dtype=torch.float64)).to(dtype)


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """In float64, from the definition."""
    logs = logits.double().log_softmax(-1)
    return -(logs.exp() * logs).nansum(-1)


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_entropy_is_that_of_the_softmax(dtype: torch.dtype) -> None:
    logits = drawn(dtype)
    tight = 1e-12 if dtype == torch.float64 else 1e-5
    found = canonical("entropy")(logits)
    torch.testing.assert_close(found.double(), entropies(logits), rtol=tight, atol=tight)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_statistics_of_half_precision_come_in_single(dtype: torch.dtype) -> None:
    logits = drawn(dtype)
    ids = torch.zeros(3, 5, dtype=torch.int64)
    found = [
        canonical("entropy")(logits),
        canonical("second")(logits, ids, MASK),
        canonical("top")(logits, MASK, 2)[1],
        canonical("gather_logits")(logits, ids[..., None]),
        canonical("all_logits")(logits),
    ]
    assert {value.dtype for value in found} == {torch.float32}


def test_entropy_of_a_saturated_row_keeps_its_precision() -> None:
    # In float32 the probability of the first token rounds to 1 from a distance of 17 on.
    distances = torch.tensor([10.0, 20.0, 30.0, 60.0])
    logits = torch.zeros(1, 4, 3)
    logits[..., 1:] = -distances[None, :, None]
    tail = 2 * torch.exp(-distances.double())
    expected = tail.log1p() + tail * distances / (1 + tail)
    found = canonical("entropy")(logits)[0].double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_the_entropy_of_equals_is_the_logarithm_of_their_number() -> None:
    logits = torch.tensor([[[2.0, 2.0, 2.0, -torch.inf], [5.0, -torch.inf, -torch.inf, -1e30]]])
    found = canonical("entropy")(logits)
    torch.testing.assert_close(found, torch.tensor([[math.log(3), 0.0]]))


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_the_second_is_the_best_of_the_others(dtype: torch.dtype) -> None:
    logits = drawn(dtype)
    logits[0, 0, MASK] = 99
    barred = logits.clone()
    barred[..., MASK] = -torch.inf
    best = barred.sort(descending=True, stable=True)
    found = canonical("second")(logits, best.indices[..., 0], MASK)
    assert torch.equal(found, best.values[..., 1].to(found.dtype))


def test_a_draw_that_is_not_the_best_comes_second_to_the_best() -> None:
    logits = torch.tensor([[[1.0, 5.0, 3.0, 9.0]]])
    assert canonical("second")(logits, torch.tensor([[2]]), 3).item() == 5
    assert canonical("second")(logits, torch.tensor([[1]]), 3).item() == 3


def test_beside_one_token_and_the_mask_nothing_is_second() -> None:
    logits = torch.tensor([[[1.0, -torch.inf, 5.0]]])
    assert canonical("second")(logits, torch.tensor([[0]]), 2).item() == -torch.inf


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_the_top_are_the_best_but_the_mask(dtype: torch.dtype) -> None:
    logits = drawn(dtype)
    logits[0, 0, MASK] = 99
    ids, values = canonical("top")(logits, MASK, 4)
    barred = logits.clone()
    barred[..., MASK] = -torch.inf
    assert torch.equal(values, barred.sort(-1, descending=True).values[..., :4].to(values.dtype))
    assert torch.equal(logits.gather(-1, ids).to(values.dtype), values)


def test_of_fewer_tokens_than_asked_the_rest_are_masks() -> None:
    logits = torch.tensor([[[1.0, 5.0, 9.0]]])
    ids, values = canonical("top")(logits, 2, 5)
    assert ids.tolist() == [[[1, 0, 2, 2, 2]]]
    assert values.tolist() == [[[5.0, 1.0, -torch.inf, -torch.inf, -torch.inf]]]


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_logits_are_gathered_and_given_as_they_are(dtype: torch.dtype) -> None:
    logits = drawn(dtype)
    ids = torch.randint(63, (3, 5, 4))
    found = canonical("gather_logits")(logits, ids)
    for place in [(0, 0, 0), (2, 4, 3), (1, 2, 1)]:
        assert found[place] == logits[place[:2]][ids[place]]
    given = canonical("all_logits")(logits)
    assert torch.equal(given.to(dtype), logits)
    assert given.data_ptr() != logits.data_ptr()


def test_layout_does_not_matter() -> None:
    logits = torch.randn(3, 63, 5).transpose(1, 2)
    ids = torch.zeros(3, 5, dtype=torch.int64)
    for name, rest in (
        ("entropy", ()),
        ("second", (ids, MASK)),
        ("gather_logits", (ids[..., None],)),
    ):
        found = canonical(name)(logits, *rest)
        assert torch.equal(found, canonical(name)(logits.contiguous(), *rest))
