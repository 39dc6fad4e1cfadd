from __future__ import annotations

import itertools
from typing import Any

import pytest

from dllmc.spec import StepPlan, statistics_name, statistics_parts

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
        {"statistics": "greedy+entropy"},
        {"statistics": "greedy+top4"},
        {"statistics": "greedy+top8"},
        {"head_rows": 0, "statistics": "none"},
        {"mask": "row_limit"},
        {"mask": "limit+tree"},
        {"inputs": "mixture4"},
        {"inputs": "mixture8"},
        {"saliency": True},
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
        ({"mask": "tree"}, "mask"),
        ({"mask": "tree+limit"}, "mask"),
        ({"inputs": "mixture"}, "inputs"),
        ({"inputs": "mixture0"}, "inputs"),
        ({"inputs": "mixture04"}, "inputs"),
        ({"inputs": "tokens4"}, "inputs"),
        ({"saliency": "much"}, "saliency"),
        ({"statistics": ""}, "`statistics`='': greedy, sampled or none expected"),
        ({"statistics": "entropy"}, "`statistics`='entropy': greedy, sampled or none expected"),
        ({"statistics": "none+entropy"}, "'none\\+entropy': greedy, sampled or none expected"),
        (
            {"statistics": "none+entropy", "head_rows": 0},
            "'none\\+entropy': greedy, sampled or none expected",
        ),
        *(
            ({"statistics": f"greedy+{extra}"}, "asks for what is unknown")
            for extra in ("", "entropi", "top", "top0", "top08", "top-1", "gather", "entropy2")
        ),
        ({"statistics": "greedy+top8+entropy"}, "is spelled 'greedy\\+entropy\\+top8'"),
        ({"statistics": "sampled+top4+top8"}, "is spelled 'sampled\\+top8'"),
        ({"statistics": "greedy+second+second"}, "is spelled 'greedy\\+second'"),
    ],
)
def test_contradictory_plan_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepPlan(**(FIELDS | changes))


@pytest.mark.parametrize(
    ("base", "extras", "name"),
    [
        ("greedy", [], "greedy"),
        ("greedy", ["top8", "entropy"], "greedy+entropy+top8"),
        ("sampled", {"top4", "top16", "top8"}, "sampled+top16"),
        ("greedy", ["gather2", "second", "gather4", "logits", "second"],
         "greedy+gather4+logits+second"),
    ],
)  # fmt: skip
def test_a_set_of_statistics_has_one_name_with_the_largest_counts(
    base: str, extras: list[str], name: str
) -> None:
    assert statistics_name(base, extras) == name
    assert StepPlan(**(FIELDS | {"statistics": name})).statistics == name


def test_the_order_of_what_is_asked_for_does_not_matter() -> None:
    extras = ["entropy", "top4", "gather2", "top8", "logits"]
    names = {statistics_name("greedy", order) for order in itertools.permutations(extras)}
    assert names == {"greedy+entropy+gather2+logits+top8"}


def test_a_name_tells_what_it_was_made_of() -> None:
    assert statistics_parts("greedy") == ("greedy", {})
    assert statistics_parts("sampled+entropy+top16") == ("sampled", {"entropy": 0, "top": 16})
    base, parts = statistics_parts("greedy+gather4+logits+second")
    assert (base, parts) == ("greedy", {"gather": 4, "logits": 0, "second": 0})


@pytest.mark.parametrize("mask", ["limit", "row_limit", "limit+tree", "row_limit+tree"])
@pytest.mark.parametrize("inputs", ["tokens", "mixture1", "mixture17"])
def test_every_mask_goes_with_every_input(mask: str, inputs: str) -> None:
    plan = StepPlan(**(FIELDS | {"mask": mask, "inputs": inputs, "saliency": True}))
    assert plan.key == f"b2-w32-r8-s64+1-greedy-{mask}-{inputs}-float32-saliency"


@pytest.mark.parametrize(
    "plan",
    [
        StepPlan(batch=3, rows=7, head_rows=5, slots=64),
        StepPlan(batch=1, rows=2, head_rows=0, slots=9, statistics="none", scratch=4),
        StepPlan(
            batch=1,
            rows=8,
            head_rows=8,
            slots=9,
            statistics="sampled+entropy+gather4",
            mask="row_limit+tree",
            inputs="mixture4",
            saliency=True,
            dtype="bfloat16",
        ),
    ],
    ids=lambda plan: plan.key,
)
def test_a_plan_comes_back_from_its_key(plan: StepPlan) -> None:
    assert StepPlan.from_key(plan.key) == plan


def test_what_is_no_key_of_a_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="`b1-w2` is no key of a plan"):
        StepPlan.from_key("b1-w2")
