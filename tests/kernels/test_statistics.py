from __future__ import annotations

import pytest
import torch

from dllmc.kernels import canonical


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_same_as_of_a_head(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 5, 16, dtype=dtype), torch.randn(63, 16, dtype=dtype)
    logits = torch.nn.functional.linear(x, weight)
    given, expected = (
        canonical("statistics")(logits, 7),
        canonical("head_statistics")(x, weight, None, 7),
    )
    for one, other in zip(given, expected, strict=True):
        assert torch.equal(one, other)


def test_the_same_when_drawn() -> None:
    x, weight = torch.randn(2, 5, 16), torch.randn(63, 16)
    counters = (
        torch.tensor([0.7, 0.0]),
        torch.tensor([3, 4]),
        torch.tensor([0, 1]),
        torch.arange(5).expand(2, 5),
        torch.tensor([1, 2]),
    )
    logits = torch.nn.functional.linear(x, weight)
    given = canonical("sampled_statistics")(logits, 7, *counters)
    expected = canonical("sampled_head_statistics")(x, weight, None, 7, *counters)
    for one, other in zip(given, expected, strict=True):
        assert torch.equal(one, other)


def test_infinite_logits_are_never_candidates_and_weigh_nothing() -> None:
    logits = torch.tensor([[[1.0, -torch.inf, 5.0, 2.0]]])
    ids, chosen, tail = canonical("statistics")(logits, 2)
    assert (ids.item(), chosen.item()) == (3, 2.0)
    assert tail.item() == pytest.approx(torch.exp(torch.tensor([-1.0, 3.0])).sum().item())
