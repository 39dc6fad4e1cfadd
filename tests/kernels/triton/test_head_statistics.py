from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dllmc.kernels import canonical, implementation
from dllmc.kernels._triton.configurations import shipped
from dllmc.kernels._triton.head_statistics import launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIGURATIONS = [*shipped("head_statistics"), *shipped("head_statistics_float32")]


def whole(dtype: torch.dtype, batch: int, rows: int, vocabulary: int, depth: int) -> list[Any]:
    """Rows and a weight of whole numbers, whose products no order of summing changes.

    In quarters, so that logits are not so far apart that the tails are only their largest term.
    """
    x = torch.randint(-3, 4, (batch, rows, depth)) / 4
    weight = torch.randint(-3, 4, (vocabulary, depth)) / 4
    return [x.to(dtype), weight.to(dtype), None]


def moved(given: list[Any]) -> list[Any]:
    return [each.to(DEVICE) if isinstance(each, Tensor) else each for each in given]


def same(found: tuple[Tensor, ...], given: list[Any], name: str = "head_statistics") -> None:
    """As the plain operator's of logits that were rounded to the dtype of the rows."""
    x, weight, bias, *others = given
    logits = torch.nn.functional.linear(
        x.double(), weight.double(), None if bias is None else bias.double()
    )
    logits = logits.to(x.dtype).double()
    expected = canonical(name.replace("head_", ""))(logits, *others)
    assert torch.equal(found[0].cpu(), expected[0])
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 5, 3), (2, 3, 203, 48), (1, 33, 300, 70), (3, 45, 130, 64)], ids=str
)
def test_odd_sizes_with_the_lowest_of_equals(
    sizes: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    given = [*whole(dtype, *sizes), 2]
    found = implementation("head_statistics", "triton")(*moved(given))
    same(found, given)


def test_logits_are_rounded_as_the_plain_product_rounds_them() -> None:
    x, weight, _ = whole(torch.float16, 1, 4, 260, 64)
    # Their exact values need more bits than float16 has: many become equal, and the lowest wins.
    given = [x, weight, (1000 + torch.randn(260)).half(), 2]
    found = implementation("head_statistics", "triton")(*moved(given))
    same(found, given)


def test_in_float64_as_the_plain_operator() -> None:
    x, weight, bias = torch.randn(2, 3, 8), torch.randn(50, 8), torch.randn(50)
    given = [x.double(), weight.double(), bias.double(), 7]
    found = implementation("head_statistics", "triton")(*moved(given))
    for one, other in zip(found, canonical("head_statistics")(*given), strict=True):
        torch.testing.assert_close(one.cpu(), other)


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=str)
def test_every_configuration_that_is_shipped(config: dict[str, int]) -> None:
    given = [*whole(torch.float32, 1, 19, 270, 90), 7]
    same(launch(*moved(given), config=config), given)


@pytest.mark.parametrize("place", [0, 130, 299, -1, 300])
def test_the_mask_never_wins_and_stays_in_the_tail(place: int) -> None:
    x, weight, _ = whole(torch.float32, 2, 3, 300, 40)
    bias = torch.zeros(300)
    if 0 <= place < 300:
        bias[place] = 60.0
    given = [x, weight, bias, place]
    same(launch(*moved(given)), given)


def test_rows_may_stand_apart_in_memory() -> None:
    x, weight, _ = whole(torch.float32, 2, 8, 150, 60)
    given = [x[:, ::2, 10:50], weight[:, 10:50], None, 3]
    same(launch(*moved(given)), given)
    given = [x[..., :40].transpose(1, 2)[..., :7], weight[:7].T[:, :7], None, 3]
    same(launch(*moved(given)), given)


def test_drawn_candidates_are_those_of_the_plain_operator() -> None:
    given = whole(torch.float32, 3, 2, 397, 40)
    counters = [torch.randint(0, 99, shape) for shape in ((3,), (3,), (3, 2), (3,))]
    given += [7, torch.tensor([0.0, 0.8, 3.0]), *counters]
    found = implementation("sampled_head_statistics", "triton")(*moved(given))
    same(found, given, "sampled_head_statistics")


def test_nothing_of_no_rows() -> None:
    given = [torch.randn(0, 4, 8), torch.randn(9, 8), None, 1]
    assert [len(each) for each in launch(*moved(given))] == [0, 0, 0]
