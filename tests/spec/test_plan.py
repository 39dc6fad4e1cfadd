from __future__ import annotations

from typing import Any

import pytest

from dllmc.spec import StepPlan

FIELDS: dict[str, Any] = {"batch": 2, "rows": 32, "head_rows": 8, "slots": 64}


def test_key_names_every_field() -> None:
    assert StepPlan(**FIELDS).key == "b2-w32-r8-s64+1-greedy-limit-tokens-float32"
    changes: list[dict[str, Any]] = [
        {"batch": 1},
        {"rows": 33},
        {"head_rows": 7},
        {"slots": 65},
        {"scratch": 2},
        {"statistics": "sampled"},
        {"head_rows": 0, "statistics": "none"},
        {"dtype": "float64"},
    ]
    keys = {StepPlan(**(FIELDS | change)).key for change in changes}
    assert len(keys) == len(changes)
    assert StepPlan(**FIELDS).key not in keys


def test_equal_plans_are_one_key() -> None:
    assert {StepPlan(**FIELDS): 1}[StepPlan(**FIELDS)] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_rows": 33}, "`head_rows`=33 must not exceed `rows`=32"),
        ({"head_rows": 0}, "`head_rows`=0 goes with `statistics`='none'"),
        ({"statistics": "none"}, "`head_rows`=0 goes with `statistics`='none'"),
        ({"batch": 0}, "batch"),
        ({"rows": 0}, "rows"),
        ({"slots": 0}, "slots"),
        ({"scratch": 0}, "scratch"),
        ({"dtype": "int8"}, "dtype"),
        ({"mask": "causal"}, "mask"),
    ],
)
def test_contradictory_plan_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepPlan(**(FIELDS | changes))
