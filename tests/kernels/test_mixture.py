from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dllmc.kernels import canonical

ALL = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_one_token_of_weight_1_is_its_embedding(dtype: torch.dtype) -> None:
    weight, ids = torch.randn(63, 17, dtype=dtype), torch.randint(63, (3, 5, 4))
    alone = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(3, 5, 4)
    assert torch.equal(canonical("mixture")(weight, ids, alone), F.embedding(ids[..., 0], weight))


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_a_mixture_is_the_weighted_sum(dtype: torch.dtype) -> None:
    weight, ids = torch.randn(63, 17, dtype=dtype), torch.randint(63, (3, 5, 4))
    weights = torch.rand(3, 5, 4).softmax(-1)
    expected = torch.zeros(3, 5, 17, dtype=torch.float64)
    for k in range(4):
        expected += weights[..., k, None].double() * weight.double()[ids[..., k]]
    found = canonical("mixture")(weight, ids, weights)
    assert found.dtype == dtype
    bound = {torch.bfloat16: 3e-2, torch.float16: 4e-3}.get(dtype, 1e-6)
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


def test_a_token_may_stand_in_a_mixture_twice() -> None:
    weight = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    found = canonical("mixture")(
        weight, torch.tensor([[[1, 1, 0]]]), torch.tensor([[[0.25, 0.5, 0.5]]])
    )
    assert found.tolist() == [[[3.5, 7.0]]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_saliency_is_the_mean_product_over_queries_and_heads(
    groups: int, dtype: torch.dtype
) -> None:
    q, keys = torch.randn(2, 4, 5, 7, dtype=dtype), torch.randn(2, groups, 11, 7, dtype=dtype)
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25, 0.0], [0.0, 0.5, 0.0, 0.0, 0.5]])
    rows = [[0, 1, 2, 3], [1, 4]]
    found = canonical("saliency")(q, keys, weights)
    assert found.dtype == torch.float32
    for sequence, chosen in enumerate(rows):
        for slot in range(11):
            products = [
                float(q[sequence, head, row] @ keys[sequence, head * groups // 4, slot])
                for head in range(4)
                for row in chosen
            ]
            expected = sum(products) / len(products)
            assert found[sequence, slot].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_saliency_of_half_precision_orders_well_separated_keys() -> None:
    q = torch.ones(1, 2, 3, 4, dtype=torch.bfloat16)
    keys = torch.tensor([3.0, 1.0, 2.0, -1.0], dtype=torch.bfloat16)
    found = canonical("saliency")(
        q, keys[None, None, :, None].expand(1, 2, 4, 4), torch.ones(1, 3) / 3
    )
    assert found.dtype == torch.float32
    assert found[0].argsort(descending=True).tolist() == [0, 2, 1, 3]
