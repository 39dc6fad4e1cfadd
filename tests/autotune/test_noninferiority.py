from __future__ import annotations

import itertools
import math
import random

import pytest

from dllmc.autotune.noninferiority import (
    cautious_discordance,
    estimated_discordance,
    interval,
    lower_bound,
    p_value,
    prompts_needed,
    prompts_without_loss,
    smallest_margin,
)

ALPHA = 0.05


def probability(wins: int, losses: int, n: int, winning: float, losing: float) -> float:
    """Of so many wins and losses in n prompts."""
    ties, tie = n - wins - losses, 1 - winning - losing
    if ties < 0 or (ties and tie <= 0) or (wins and not winning) or (losses and not losing):
        return 0.0
    log = math.lgamma(n + 1)
    for count, share in ((wins, winning), (losses, losing), (ties, tie)):
        log += (count * math.log(share) if count else 0.0) - math.lgamma(count + 1)
    return math.exp(log)


def passing(n: int, margin: float, wins: range) -> dict[int, int]:
    """The most losses with which the test is passed, by number of wins."""
    found = {}
    for won in wins:
        lost = found.get(won - 1, -1)
        while won + lost + 1 <= n and p_value(won, lost + 1, n, margin) <= ALPHA:
            lost += 1
        found[won] = lost
    return found


def chance(region: dict[int, int], n: int, winning: float, losing: float) -> float:
    """Of passing, where `region` holds the wins that matter."""
    return sum(
        probability(won, lost, n, winning, losing)
        for won, most in region.items()
        for lost in range(most + 1)
    )


@pytest.mark.parametrize(
    ("wins", "losses", "n", "passes"),
    [
        (0, 0, 149, False),  # 0.98 ** 149 is 0.0493, and 0.001 is spent on the nuisance
        (0, 0, 150, True),
        (0, 1, 230, False),
        (0, 1, 240, True),
        (0, 133, 133, False),
        (133, 0, 133, True),
        (20, 20, 300, False),
        (20, 20, 1000, True),
        (0, 8, 400, False),
    ],
)
def test_small_losses_pass_once_prompts_are_enough(
    wins: int, losses: int, n: int, passes: bool
) -> None:
    assert (p_value(wins, losses, n, 0.02) <= ALPHA) == passes


def test_more_wins_are_better_and_more_losses_worse() -> None:
    by_losses = [p_value(3, losses, 300, 0.02) for losses in range(12)]
    by_wins = [p_value(wins, 6, 300, 0.02) for wins in range(12)]
    by_margin = [p_value(3, 6, 300, margin / 100) for margin in range(1, 12)]
    assert by_losses == sorted(by_losses)
    assert by_wins == sorted(by_wins, reverse=True)
    assert by_margin == sorted(by_margin, reverse=True)


@pytest.mark.parametrize(("n", "margin"), [(30, 0.1), (60, 0.05), (25, 0.2)])
def test_no_true_loss_of_the_margin_passes_in_more_than_five_percent(
    n: int, margin: float
) -> None:
    region = passing(n, margin, range(n + 1))
    for step in range(60):
        winning = (1 - margin) / 2 * (step / 59) ** 2
        assert chance(region, n, winning, winning + margin) <= ALPHA


@pytest.mark.slow
@pytest.mark.parametrize(("n", "margin"), [(150, 0.02), (310, 0.02), (600, 0.02), (250, 0.05)])
def test_no_true_loss_of_the_margin_passes_in_more_than_five_percent_at_usual_sizes(
    n: int, margin: float
) -> None:
    # Up to 20 % of wins: over 60 wins of 150 and so on have a probability under 1e-9.
    most = int(0.2 * n + 7 * math.sqrt(0.2 * n) + 10)
    region = passing(n, margin, range(min(n, most) + 1))
    worst = max(
        chance(region, n, winning, winning + margin)
        for winning in (0.2 * (step / 39) ** 2 for step in range(40))
    )
    assert 0.03 <= worst <= ALPHA


@pytest.mark.slow
def test_of_simulated_confirmations_at_the_boundary_at_most_five_percent_pass() -> None:
    rng = random.Random(0)
    known: dict[tuple[int, int, int], bool] = {}
    for n, winning in itertools.product((150, 431), (0.0, 0.002, 0.01, 0.05)):
        passed = 0
        for _ in range(4000):
            points = [rng.random() for _ in range(n)]
            wins = sum(point < winning for point in points)
            losses = sum(point > 1 - winning - 0.02 for point in points)
            if (table := (wins, losses, n)) not in known:
                known[table] = p_value(*table, 0.02) <= ALPHA
            passed += known[table]
        # 4,000 draws of 5 % have a standard deviation of 0.34 %.
        assert passed / 4000 <= ALPHA + 3 * 0.0034


@pytest.mark.parametrize(
    ("wins", "losses", "n", "margin"),
    [(0, 0, 150, 0.02), (0, 0, 149, 0.02), (3, 4, 500, 0.02), (9, 2, 100, 0.05), (0, 9, 60, 0.1)],
)
def test_the_lower_bound_is_above_the_margin_exactly_if_the_test_is_passed(
    wins: int, losses: int, n: int, margin: float
) -> None:
    bound = lower_bound(wins, losses, n, margin)
    assert (bound > -margin) == (p_value(wins, losses, n, margin) <= ALPHA)
    assert -1 <= bound <= (wins - losses) / n


def test_the_lower_bound_hardly_depends_on_the_margin_asked_for() -> None:
    bounds = [lower_bound(3, 5, 400, margin) for margin in (0.01, 0.02, 0.03, 0.1)]
    assert max(bounds) - min(bounds) < 1e-4


@pytest.mark.parametrize("margin", [0.02, pytest.param(0.05, marks=pytest.mark.slow)])
@pytest.mark.parametrize("discordance", [0.004, 0.008, 0.015, 0.03])
def test_the_prompts_needed_give_about_the_power_promised(
    discordance: float, margin: float
) -> None:
    n = prompts_needed(discordance, margin)
    region = passing(n, margin, range(25))
    assert chance(region, n, discordance / 2, discordance / 2) == pytest.approx(0.82, abs=0.08)


def test_without_a_loss_150_prompts_confirm_two_points() -> None:
    assert prompts_without_loss(0.02) == prompts_needed(0.0, 0.02) == 150
    assert prompts_needed(0.05, 0.02) == 837


@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.005, 0.001])
def test_a_smaller_error_needs_at_most_an_eighth_more_prompts_than_it_says(alpha: float) -> None:
    n = prompts_without_loss(0.05, alpha)
    assert p_value(0, 0, n - 1, 0.05, alpha) > alpha
    assert p_value(0, 0, math.ceil(1.125 * n), 0.05, alpha) <= alpha
    assert n <= prompts_needed(0.01, 0.05, alpha)


def test_a_smaller_error_gives_a_lower_bound_and_the_interval_halves_it() -> None:
    assert lower_bound(3, 9, 400, 0.05, 0.005) < lower_bound(3, 9, 400, 0.05) < -6 / 400
    low, high = interval(3, 9, 400, 0.05, 0.01)
    assert low == lower_bound(3, 9, 400, 0.05, 0.005)
    assert -6 / 400 < high < 0.02
    # The other way round it is the same interval.
    assert interval(9, 3, 400, 0.05, 0.01) == pytest.approx((-high, -low), abs=1e-4)


@pytest.mark.slow
def test_an_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    n, winning, losing, alpha = 60, 0.05, 0.15, 0.1
    covering = 0.0
    for wins in range(16):
        for losses in range(26):
            chance = probability(wins, losses, n, winning, losing)
            # What is left out, 2 % in all, counts as not covered.
            if chance < 3e-4:
                continue
            low, high = interval(wins, losses, n, 0.1, alpha)
            if low <= winning - losing <= high:
                covering += chance
    assert covering >= 1 - alpha


@pytest.mark.parametrize("discordance", [0.0, 0.01, 0.1])
def test_the_smallest_margin_is_the_one_that_the_prompts_are_enough_for(
    discordance: float,
) -> None:
    margin = smallest_margin(discordance, 500)
    assert prompts_needed(discordance, margin) <= 500 < prompts_needed(discordance, margin * 0.99)


def test_discordance_is_never_taken_for_none() -> None:
    assert 0 < estimated_discordance(0, 100) < cautious_discordance(0, 100) < 0.02
    assert estimated_discordance(10, 100) < cautious_discordance(10, 100) < 0.15
    assert cautious_discordance(5, 5) == 1.0
