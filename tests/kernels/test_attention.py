from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dllmc.kernels import canonical, implementation, implementations

ATTENTION, CACHED = canonical("attention"), canonical("cached_attention")
# Batch, heads, groups, rows, width of K, width of V.
SIZES = [(1, 1, 1, 1, 2, 2), (2, 4, 4, 7, 6, 6), (3, 6, 2, 5, 3, 9), (1, 4, 1, 63, 8, 8)]


def exact(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Head by head and row by row in float64."""
    queries, keys, values = (t.double().numpy() for t in (q, k, v))
    group = queries.shape[1] // keys.shape[1]
    out = np.zeros((*queries.shape[:3], values.shape[3]))
    for b, h, w in np.ndindex(queries.shape[:3]):
        scores = keys[b, h // group] @ queries[b, h, w] * scale
        shares = np.exp(scores - scores.max())
        out[b, h, w] = shares / shares.sum() @ values[b, h // group]
    return torch.from_numpy(out)


def drawn(
    sizes: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, groups, rows, width, other = sizes
    q = torch.randn(batch, heads, rows, width)
    k, v = torch.randn(batch, groups, rows, width), torch.randn(batch, groups, rows, other)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def empty_cache(k: Tensor, v: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    shape = k.shape[:2]
    return (
        torch.zeros(*shape, slots + 1, k.shape[3], dtype=k.dtype),
        torch.zeros(*shape, slots + 1, v.shape[3], dtype=k.dtype),
    )


def order(batch: int, rows: int) -> Tensor:
    return torch.arange(rows).expand(batch, rows)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
    ids=str,
)
def test_every_query_sees_every_key(
    sizes: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v = drawn(sizes, dtype)
    found = ATTENTION(q, k, v, 0.3)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact(q, k, v, 0.3), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_full_cached_evaluation_is_attention(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k, v = drawn(sizes, dtype)
    batch, rows = sizes[0], sizes[3]
    keys, values = empty_cache(k, v, rows)
    limit = torch.full((batch,), rows)
    found = CACHED(q, k, v, keys, values, order(batch, rows), limit, 0.3)
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(found.double(), exact(q, k, v, 0.3), rtol=tolerance, atol=tolerance)


def test_rows_are_written_before_they_are_read() -> None:
    q, k, v = drawn((2, 4, 2, 3, 6, 6))
    keys, values = (torch.randn_like(t) for t in empty_cache(k, v, 8))
    slots = torch.tensor([[6, 0, 3], [2, 1, 7]])
    expected_keys, expected_values = keys.clone(), values.clone()
    for b in range(2):
        expected_keys[b][:, slots[b]] = k[b]
        expected_values[b][:, slots[b]] = v[b]
    found = CACHED(q, k, v, keys, values, slots, torch.tensor([8, 8]), 0.3)
    assert torch.equal(keys, expected_keys)
    assert torch.equal(values, expected_values)
    read = exact(q, expected_keys[:, :, :8], expected_values[:, :, :8], 0.3)
    torch.testing.assert_close(found, read, rtol=0, atol=1e-13)


def test_each_sequence_reads_up_to_its_limit() -> None:
    q, k, v = drawn((3, 2, 2, 2, 4, 4))
    keys, values = (torch.randn_like(t) for t in empty_cache(k, v, 9))
    limits = torch.tensor([9, 4, 2])
    found = CACHED(q, k, v, keys, values, order(3, 2), limits, 0.3)
    for b, limit in enumerate(limits.tolist()):
        own = slice(b, b + 1)
        read = exact(q[own], keys[own, :, :limit], values[own, :, :limit], 0.3)
        torch.testing.assert_close(found[own], read, rtol=0, atol=1e-13)


def test_what_stands_in_scratch_is_never_read() -> None:
    q, k, v = drawn((2, 2, 1, 3, 4, 4))
    limits, slots = torch.tensor([6, 4]), torch.tensor([[0, 6, 6], [3, 6, 6]])
    outputs = []
    for filling in (0.0, 1e30):
        keys, values = (t.fill_(filling) for t in empty_cache(k, v, 6))
        keys[:, :, :6], values[:, :, :6] = 0.5, 0.25
        outputs.append(CACHED(q, k, v, keys, values, slots, limits, 0.3))
        assert torch.equal(keys[0, 0, 1:6], torch.full((5, 4), 0.5, dtype=torch.float64))
    assert torch.equal(outputs[0], outputs[1])


def test_padded_rows_do_not_change_the_others() -> None:
    q, k, v = drawn((1, 2, 2, 5, 4, 4))
    slots = torch.tensor([[2, 3, 8, 8, 8]])
    caches = [empty_cache(k, v, 8) for _ in range(2)]
    limit = torch.tensor([8])
    padded = CACHED(q, k, v, *caches[0], slots, limit, 0.3)[:, :, :2]
    alone = CACHED(q[:, :, :2], k[:, :, :2], v[:, :, :2], *caches[1], slots[:, :2], limit, 0.3)
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-14)
    assert torch.equal(caches[0][0][:, :, :8], caches[1][0][:, :, :8])


def test_attention_is_never_causal() -> None:
    q, k, v = drawn((1, 2, 2, 6, 4, 4))
    later = v.clone()
    later[:, :, 5] += 1
    first = ATTENTION(q, k, v, 0.3)[:, :, 0]
    assert not torch.equal(first, ATTENTION(q, k, later, 0.3)[:, :, 0])
    cached = [
        CACHED(q, k, value, *empty_cache(k, v, 6), order(1, 6), torch.tensor([6]), 0.3)[:, :, 0]
        for value in (v, later)
    ]
    assert not torch.equal(*cached)
    # Nor can it be asked to be.
    names = {
        argument.name for argument in (*ATTENTION._schema.arguments, *CACHED._schema.arguments)
    }
    assert not {name for name in names if "causal" in name}


@pytest.mark.parametrize("which", sorted(implementations("cached_attention")))
@pytest.mark.parametrize("limits", ["sequence", "row"])
@pytest.mark.parametrize("extra", [None, "mask", "added", "bias"])
def test_every_implementation_attends_and_writes_alike(
    which: str, limits: str, extra: str | None
) -> None:
    torch.manual_seed(0)
    q, k, v = drawn((3, 6, 2, 5, 4, 7))
    slots = torch.stack([torch.randperm(9)[:5] for _ in range(3)])
    places = torch.arange(10).expand(3, 10).contiguous()
    given: dict[str, Tensor] = {"query_positions": slots, "key_positions": places}
    if extra == "mask":
        given["mask"] = torch.rand(3, 1, 5, 10) < 0.7
        given["mask"][..., 0] = True
    elif extra == "added":
        given["mask"] = torch.randn(3, 6, 1, 10, dtype=torch.float64)
    elif extra == "bias":
        given["bias"] = torch.randn(6, 10, 10, dtype=torch.float64)
    limit = torch.tensor([9, 4, 7])
    if limits == "row":
        limit = limit[:, None].expand(3, 5) - torch.arange(5).remainder(2)
    results = []
    for name in ("default", which):
        keys, values = (torch.randn(3, 2, 10, n, dtype=torch.float64) for n in (4, 7))
        keys, values = keys.fill_(0.3), values.fill_(-0.2)
        operator = implementation("cached_attention", name)
        found = operator(q, k, v, keys, values, slots, limit, 0.4, **given)
        results.append((found, keys, values))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
