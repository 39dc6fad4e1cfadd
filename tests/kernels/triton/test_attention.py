from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from dllmc.kernels import canonical, implementation
from dllmc.kernels._triton.attention import launch
from dllmc.kernels._triton.attention_parts import splits_of
from dllmc.kernels._triton.configurations import shipped, table

if TYPE_CHECKING:
    from collections.abc import Iterator

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ATTENTION, CACHED = canonical("attention"), canonical("cached_attention")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.float16: 4e-3}
# Batch, heads, groups, rows, slots, width of K, width of V.
SIZES = [
    (1, 1, 1, 1, 1, 16, 16),
    (2, 2, 2, 7, 103, 24, 24),
    (1, 6, 2, 7, 70, 16, 40),
    (1, 7, 1, 5, 40, 80, 16),
]
SMALL = {"BLOCK_M": 16, "BLOCK_N": 16}


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """What is allocated and not written is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def drawn(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, and keys and values of every slot."""
    batch, heads, groups, rows, slots, width, other = sizes
    q = torch.randn(batch, heads, rows, width)
    k, v = torch.randn(batch, groups, slots, width), torch.randn(batch, groups, slots, other)
    return [each.to(dtype) for each in (q, k, v)]


def moved(value: Any, double: bool = False) -> Any:
    """An argument in float64, or where the kernel runs."""
    if not isinstance(value, Tensor):
        return value
    return (value.double() if value.is_floating_point() else value) if double else value.to(DEVICE)


def same(found: Tensor, *given: Any, **options: Any) -> None:
    """The plain operator in float64, of the same numbers."""
    options = {name: moved(value, True) for name, value in options.items()}
    expected = ATTENTION(*(moved(each, True) for each in given), **options)
    tolerance = TOLERANCE[given[0].dtype]
    torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance)


def launched(*given: Any, **options: Any) -> Tensor:
    options = {name: moved(value) for name, value in options.items()}
    return launch(*(moved(each) for each in given), **options)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_query_sees_every_key(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    q, k, v = drawn(sizes, dtype)
    found = implementation("attention", "triton")(*map(moved, (q, k, v)), 0.3)
    assert found.dtype == dtype
    same(found, q, k, v, 0.3)


@pytest.mark.parametrize("splits", [1, 2, 5])
def test_any_number_of_parts(splits: int) -> None:
    q, k, v = drawn(SIZES[2])
    same(launched(q, k, v, 0.3, config=SMALL, splits=splits), q, k, v, 0.3)


@pytest.mark.parametrize("kernel", [name for name in table() if name.startswith("attention")])
def test_every_configuration_that_is_shipped(kernel: str) -> None:
    dtype = torch.float32 if "float32" in kernel else torch.float16
    for config in shipped(kernel):
        rows = config["BLOCK_M"] + 1
        q, k, v = drawn((1, 1, 1, rows, 75, int(kernel.rpartition("_")[2]), 64), dtype)
        same(launched(q, k, v, 0.1, config=config, splits=1), q, k, v, 0.1)


@pytest.mark.parametrize("splits", [1, 4])
def test_each_sequence_reads_below_its_own_limit_and_never_beyond(splits: int) -> None:
    q, k, v = drawn((4, 4, 2, 3, 100, 16, 24))
    limits = torch.tensor([1, 16, 37, 100])
    beyond = torch.arange(100) >= limits[:, None]
    spoilt = [x.masked_fill(beyond[:, None, :, None], torch.nan) for x in (k, v)]
    found = launched(q, *spoilt, 0.3, limits, config=SMALL, splits=splits)
    same(found, q, k, v, 0.3, mask=~beyond[:, None, None])


@pytest.mark.parametrize("splits", [1, 3])
def test_limits_by_row_are_of_positions(splits: int) -> None:
    q, k, v = drawn((2, 4, 2, 9, 77, 16, 16))
    positions = torch.stack([torch.randperm(90)[:77] for _ in range(2)])
    positions[:, 5] = 0
    limits = torch.randint(1, 60, (2, 9))
    limits[0, 3] = 1
    beyond = (positions >= limits.amax(-1, keepdim=True))[:, None, :, None]
    spoilt = [x.masked_fill(beyond, torch.nan) for x in (k, v)]
    found = launched(q, *spoilt, 0.3, limits, positions, config=SMALL, splits=splits)
    same(found, q, k, v, 0.3, key_limit=limits, key_positions=positions)


@pytest.mark.parametrize("shape", [(2, 1, 1, 45), (2, 4, 5, 45), (2, 1, 5, 45)], ids=str)
@pytest.mark.parametrize("added", [False, True])
def test_masks_hide_keys_or_are_added(shape: tuple[int, ...], added: bool) -> None:
    q, k, v = drawn((2, 4, 2, 5, 45, 16, 16))
    mask = torch.randn(shape)
    if not added:
        mask = mask > 0
        mask[..., 7] = True
    found = launched(q, k, v, 0.3, mask=mask, config=SMALL, splits=2)
    same(found, q, k, v, 0.3, mask=mask)


def test_a_mask_counts_below_a_limit_only() -> None:
    q, k, v = drawn((2, 2, 2, 3, 45, 16, 16))
    mask = torch.randn(2, 1, 3, 45) > 0
    mask[..., 0] = True
    limits = torch.tensor([1, 30])
    within = torch.arange(45) < limits[:, None, None, None]
    found = launched(q, k, v, 0.3, limits, mask=mask, config=SMALL, splits=2)
    same(found, q, k, v, 0.3, mask=mask & within)


@pytest.mark.parametrize("splits", [1, 3])
def test_a_row_that_sees_nothing_is_zero(splits: int) -> None:
    q, k, v = drawn((1, 1, 1, 2, 40, 16, 16))
    mask = torch.ones(1, 1, 2, 40, dtype=torch.bool)
    mask[0, 0, 1] = False
    found = launched(q, k, v, 0.3, mask=mask, config=SMALL, splits=splits)
    assert found[0, 0, 0].isfinite().all()
    assert torch.equal(found[0, 0, 1].cpu(), torch.zeros(16))


def test_large_scores_do_not_overflow() -> None:
    q, k, v = (x.round() for x in drawn((1, 2, 1, 3, 50, 16, 16)))
    same(launched(q, k, v, 90.0, config=SMALL, splits=3), q, k, v, 90.0)


def test_tensors_may_be_views_of_others() -> None:
    q = torch.randn(2, 5, 4, 40).transpose(1, 2)[..., 3:19]
    k = torch.randn(2, 60, 2, 32).transpose(1, 2)[:, :, ::2, ::2]
    v = torch.randn(2, 2, 20, 30).transpose(2, 3)
    found = launched(q, k, v, 0.3, config=SMALL, splits=2)
    assert found.transpose(1, 2).is_contiguous()
    same(found, q, k, v, 0.3)


def slots_of(batch: int, rows: int, slots: int) -> Tensor:
    return torch.stack([torch.randperm(slots)[:rows] for _ in range(batch)])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", [4, 9])
def test_rows_are_written_at_their_slots_before_attention(dtype: torch.dtype, rows: int) -> None:
    q, keys, values = drawn((2, 4, 2, 4, 50, 16, 24), dtype)
    _, k, v = drawn((2, 4, 2, 4, rows, 16, 24), dtype)
    slots, limits = slots_of(2, rows, 50), torch.tensor([50, 23])
    given = [q, k, v, keys, values, slots, limits, 0.3]
    exact = [moved(each, True).clone() for each in given[:-1]]
    expected = CACHED(*exact, 0.3)
    there = [moved(each) for each in given]
    found = implementation("cached_attention", "triton")(*there)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(there[3:5], exact[3:5], strict=True):
        assert torch.equal(one.cpu().double(), other)


def test_a_bias_is_added_by_the_plain_body() -> None:
    q, k, v = drawn((1, 2, 2, 6, 6, 16, 16))
    rows = torch.arange(6)[None]
    given = {"query_positions": rows, "key_positions": rows, "bias": torch.randn(2, 6, 6)}
    there = {name: moved(value) for name, value in given.items()}
    found = implementation("attention", "triton")(*map(moved, (q, k, v)), 0.3, **there)
    same(found, q, k, v, 0.3, **given)


@pytest.mark.parametrize("bias", [False, True])
def test_compilers_are_told_how_the_result_lies_in_memory(bias: bool) -> None:
    q, k, v = drawn((2, 4, 2, 6, 6, 16, 24))
    rows = torch.arange(6).expand(2, 6)
    table = torch.randn(4, 6, 6) if bias else None
    given = [moved(each) for each in (q, k, v, 0.3, None, rows, rows, table)]
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        shapes = [mode.from_tensor(x) if isinstance(x, Tensor) else x for x in given]
        told = implementation("attention", "triton")(*shapes)
    found = implementation("attention", "triton")(*given)
    assert (told.shape, told.stride(), told.dtype) == (found.shape, found.stride(), found.dtype)


def test_keys_are_split_where_few_programs_would_run() -> None:
    cpu = torch.device("cpu")
    assert splits_of(1, 4096, 64, cpu) == 32
    assert splits_of(32, 4096, 64, cpu) == 8
    assert splits_of(32, 256, 64, cpu) == 2
    assert splits_of(1000, 4096, 64, cpu) == 1


def test_nothing_of_no_rows() -> None:
    assert launched(*drawn((2, 2, 2, 0, 9, 16, 16)), 0.3).shape == (2, 2, 0, 16)
