"""Tests that share an error, against what the procedure promises."""

from __future__ import annotations

import numpy as np
import pytest

from dllmc.autotune.fallback import level_of, shares_of

ALPHA = 0.05


def passing(p_values: list[float], shares: list[float]) -> list[bool]:
    found: list[bool] = []
    before = 0.0
    for p_value, share in zip(p_values, shares, strict=True):
        level = level_of(share, ALPHA, before)
        found.append(p_value <= level)
        before = level if found[-1] else 0.0
    return found


def test_a_failure_leaves_what_comes_behind_its_own_share() -> None:
    shares = shares_of(3, all_to_first=False)
    assert shares == [0.5, 0.25, 0.25]
    assert passing([0.3, 0.012, 0.001], shares) == [False, True, True]
    assert passing([0.3, 0.013, 0.001], shares) == [False, False, True]


def test_what_passes_hands_its_level_on() -> None:
    shares = shares_of(3, all_to_first=False)
    assert passing([0.025, 0.037, 0.05], shares) == [True, True, True]
    assert passing([0.025, 0.038, 0.05], shares) == [True, False, False]


def test_with_all_at_the_first_one_failure_ends_it() -> None:
    shares = shares_of(3, all_to_first=True)
    assert passing([0.05, 0.05, 0.05], shares) == [True, True, True]
    assert passing([0.05, 0.06, 0.0001], shares) == [True, False, False]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("all_to_first", [True, False])
def test_shares_sum_to_one(count: int, all_to_first: bool) -> None:
    shares = shares_of(count, all_to_first=all_to_first)
    assert len(shares) == count
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    "true",
    [
        (True,) * 4,
        (False, True, True, True),
        (True, False, True, False),
        (False, False, True, True),
    ],
)
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_any_true_hypothesis_is_rejected_as_rarely_as_promised(
    true: tuple[bool, ...], correlation: float
) -> None:
    """P-values of true ones are uniform, alone or much alike; those of false ones next to 0."""
    rng = np.random.default_rng(0)
    jobs, shares = 20_000, shares_of(4, all_to_first=False)
    common = rng.random((jobs, 1)) < correlation
    uniform = np.where(common, rng.random((jobs, 1)), rng.random((jobs, 4)))
    wrong = 0
    for row in uniform:
        p_values = [p if is_true else 1e-6 for p, is_true in zip(row, true, strict=True)]
        passed = passing(p_values, shares)
        wrong += any(p and t for p, t in zip(passed, true, strict=True))
    # Three standard errors of a share of 5 % of 20,000.
    assert wrong / jobs <= ALPHA + 0.0047
