from __future__ import annotations

import math

import pytest

from dllmc.autotune.budget import Budget, BudgetSpentError, parse_budget
from dllmc.spec import TuningError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90.0),
        ("10m", 600.0),
        ("1.5h", 5400.0),
        ("2d", 172800.0),
        (" 3 M ", 180.0),
        ("45", 45.0),
        (".5m", 30.0),
        (12, 12.0),
        (0.25, 0.25),
        (None, None),
    ],
)
def test_a_budget_is_read_in_seconds(value: str | float | None, seconds: float | None) -> None:
    assert parse_budget(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "10 minutes", "-5m", "0", "m", "1h30m", "inf", 0, -1, math.nan, math.inf]
)
def test_what_is_no_positive_time_is_refused(value: str | float) -> None:
    with pytest.raises(TuningError, match="is not a positive time; write seconds, or a text"):
        parse_budget(value)


def test_a_budget_goes_on_where_an_earlier_run_stopped() -> None:
    now = 100.0
    budget = Budget(60.0, spent=20.0, clock=lambda: now)
    assert (budget.spent, budget.left(), budget.left(0.5)) == (20.0, 40.0, 10.0)
    now = 115.0
    assert budget.left(0.5) == -5.0
    with pytest.raises(BudgetSpentError):
        budget.require(0.5)
    budget.require()


def test_a_clock_that_is_set_back_gives_no_time_back() -> None:
    now = 100.0
    budget = Budget(60.0, clock=lambda: now)
    now = 110.0
    assert budget.spent == 10.0
    now = -3500.0
    assert budget.spent == 10.0
    now = -3480.0
    assert (budget.spent, budget.left()) == (30.0, 30.0)


def test_without_a_budget_there_is_always_time() -> None:
    Budget(None, spent=1e9).require(0.1)
