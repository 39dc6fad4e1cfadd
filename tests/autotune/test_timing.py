from __future__ import annotations

import random

import pytest

from dllmc.autotune.timing import median_ratio, noise_floor


def test_the_extremes_bound_the_median_while_pairs_are_few() -> None:
    ratio = median_ratio([1.2, 1.0, 1.1])
    assert (ratio.n, ratio.median, ratio.low, ratio.high) == (3, 1.1, 1.0, 1.2)
    assert ratio.confidence == 1 - 0.5**3


def test_six_pairs_are_the_fewest_for_a_95_percent_interval() -> None:
    assert median_ratio([1.0] * 5).confidence < 0.975 <= median_ratio([1.0] * 6).confidence


def test_an_outlier_is_left_out_once_pairs_are_enough() -> None:
    ratio = median_ratio([1.0] * 8 + [9.0])
    assert (ratio.low, ratio.high) == (1.0, 1.0)
    assert median_ratio([1.0] * 7 + [9.0]).high == 9.0


def test_one_pair_is_its_own_interval() -> None:
    assert median_ratio([2.0])[:4] == (1, 2.0, 2.0, 2.0)


@pytest.mark.parametrize("n", [6, 9, 15])
def test_the_interval_covers_the_true_median_as_often_as_it_says(n: int) -> None:
    rng = random.Random(n)
    trials = 4000
    below = above = 0
    for _ in range(trials):
        ratio = median_ratio([rng.lognormvariate(0.0, 0.3) for _ in range(n)])
        below += ratio.high < 1.0
        above += ratio.low > 1.0
    assert max(below, above) / trials <= 0.025 + 0.008


def test_the_noise_floor_is_the_further_end() -> None:
    assert noise_floor([1.0, 0.5, 1.25]) == pytest.approx(0.693, abs=1e-3)
    assert noise_floor([1.0, 1.0]) == 0.0
