from __future__ import annotations

import importlib
import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from rows.given import given, made
from rows.made import SPEC, predictions, rows

from dllmc import policies
from dllmc.policies._registry import kinds, parse
from dllmc.policies.axes import AXES, Commit
from dllmc.policies.commit.quota import Quota
from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.progress import commit_oracle, commit_rows, ordered, rank
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, StepPlan, statistics_name

if TYPE_CHECKING:
    from dllmc.policies.rows import Rows

ALL_KINDS = [(axis, kind) for axis in AXES for kind in kinds(axis)]


class Nothing(Commit):
    kind: str = "nothing"

    def select(self, rows: Rows, values: object) -> torch.Tensor:
        return torch.zeros_like(rows.eligible)

    def oracle(self, rows: object, progress: BlockProgress) -> set[int]:
        return set()


class Everything(Nothing):
    def select(self, rows: Rows, values: object) -> torch.Tensor:
        return torch.ones_like(rows.eligible)


class Patient(Nothing):
    may_wait = True


PROGRESS = BlockProgress(step=0, masks=4, blocks=1)
DOUBT = torch.tensor([[3.0, 1.0, 1.0, 0.0], [math.inf, math.inf, 5.0, math.inf], [1.0] * 4])
ELIGIBLE = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()


def test_a_row_with_anything_eligible_commits_its_surest_then_lowest_position() -> None:
    committed = commit_rows(Nothing(), rows(DOUBT, ELIGIBLE), {})
    assert committed.int().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_the_oracle_gives_the_same_guarantee() -> None:
    assert commit_oracle(Nothing(), predictions([3.0, 1.0, 1.0]), PROGRESS) == {1}
    assert commit_oracle(Nothing(), predictions([math.inf, math.inf]), PROGRESS) == {0}
    assert commit_oracle(Nothing(), [], PROGRESS) == set()


def test_a_policy_or_a_decision_may_wait_but_a_row_alone_commits() -> None:
    flags = torch.tensor([False, False, True, True]), torch.tensor([False, True, False, True])
    alike = rows([[3.0, 1.0]] * 4, single=flags[0], waits=flags[1])
    for policy, moves in ((Nothing(), (1, 0, 1, 1)), (Patient(), (0, 0, 1, 1))):
        committed = commit_rows(policy, alike, {})
        assert committed.int().tolist() == [[0, move] for move in moves]
        for single, waits, move in zip(*(flag.tolist() for flag in flags), moves, strict=True):
            asked = predictions([3.0, 1.0])
            chosen = commit_oracle(policy, asked, PROGRESS, single=single, waits=waits)
            assert chosen == ({1} if move else set())


def test_what_is_not_eligible_never_commits() -> None:
    assert torch.equal(commit_rows(Everything(), rows(DOUBT, ELIGIBLE), {}), ELIGIBLE)


def test_rank_puts_the_eligible_first_and_ties_by_position() -> None:
    assert rank(rows(DOUBT, ELIGIBLE))[0].tolist() == [2, 0, 1, 3]
    assert rank(rows(DOUBT, ELIGIBLE))[1].tolist() == [2, 0, 3, 1]


def test_rows_come_first_by_their_order_if_they_have_one() -> None:
    order = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    having = rows(DOUBT[:1], ELIGIBLE[:1], order=order)
    assert rank(having).tolist() == [[0, 2, 1, 3]]
    assert ordered(having).tolist() == [[0, 2, 1, 3]]
    assert commit_rows(Nothing(), having, {}).int().tolist() == [[1, 0, 0, 0]]
    pairs = zip(predictions([3.0, 1.0, 1.0]), order[0].tolist(), strict=False)
    asked = [row.having(order=place) for row, place in pairs]
    assert commit_oracle(Nothing(), asked, PROGRESS) == {0}


def test_rows_of_a_batch_have_their_own_values() -> None:
    values = {"count": torch.tensor([1.0, 2.0])}
    committed = commit_rows(Quota(), rows([[0.3, 0.2, 0.1]] * 2), values)
    assert committed.int().tolist() == [[0, 0, 1], [0, 1, 1]]


@pytest.mark.parametrize("axis", AXES)
def test_kinds_are_found_by_scan(axis: str) -> None:
    folder = Path(policies.__file__).with_name(axis)
    files = {path.stem for path in folder.glob("*.py") if not path.name.startswith("_")}
    assert set(kinds(axis)) == files
    for name in files:
        module = importlib.import_module(f"{policies.__name__}.{axis}.{name}")
        defined = [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and issubclass(value, AXES[axis])
            and value.__module__ == module.__name__
        ]
        assert defined == [kinds(axis)[name]]
        assert defined[0].model_fields["kind"].default == name


@pytest.mark.parametrize(("axis", "kind"), ALL_KINDS)
def test_every_kind_is_made_from_its_name_and_what_must_be_given(axis: str, kind: str) -> None:
    policy = parse(axis, {"kind": kind, **given(kinds(axis)[kind])})
    assert (policy.axis, policy.kind) == (axis, kind)
    assert parse(axis, policy) is policy
    assert parse(axis, policy.model_dump(mode="json")) == policy


@pytest.mark.parametrize(("axis", "kind"), ALL_KINDS)
def test_what_a_kind_remembers_and_asks_for_has_names_that_others_know(
    axis: str, kind: str
) -> None:
    policy = parse(axis, {"kind": kind, **given(kinds(axis)[kind])})
    remembered = policy.remembers(SPEC)
    assert all(name.startswith(f"{axis}.") for name in remembered)
    assert all(isinstance(getattr(torch, e.dtype), torch.dtype) for e in remembered.values())
    asked = statistics_name("greedy", policy.needs)
    plan = StepPlan(batch=1, rows=1, head_rows=1, slots=1, statistics=asked)
    assert plan.statistics == asked


@pytest.mark.parametrize(("axis", "kind"), ALL_KINDS)
def test_every_number_of_a_policy_is_a_knob_with_a_range_or_choices(axis: str, kind: str) -> None:
    policy = kinds(axis)[kind]
    numbers = {
        name
        for name, field in policy.model_fields.items()
        if field.annotation in (int, float, int | None, float | None)
    }
    chosen = {name for name, knob in policy.knobs().items() if knob.choices}
    assert numbers <= set(policy.knobs()) <= numbers | chosen
    for name, knob in policy.knobs().items():
        default = policy.model_fields[name].default
        if knob.choices:
            assert (knob.scale, default in knob.choices) == ("choice", True)
        else:
            assert knob.low is not None
            assert knob.high is not None
            assert knob.low < knob.high
            assert default is None or knob.low <= default <= knob.high
        for value in knob.choices or (knob.low, knob.high):
            assert getattr(made(policy, **{name: value}), name) == value


@pytest.mark.parametrize(("axis", "kind"), ALL_KINDS)
def test_every_policy_is_frozen_and_knows_its_fields(axis: str, kind: str) -> None:
    policy = made(kinds(axis)[kind])
    with pytest.raises(ValueError, match="frozen"):
        policy.kind = "other"
    with pytest.raises(ConfigError, match="`speed` is not a known field"):
        parse(axis, {"kind": kind, "speed": 1})


@pytest.mark.parametrize("value", ["threshold", None, 3, [Threshold()], Quota])
def test_what_is_no_policy_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="must be a policy or a mapping with a `kind`"):
        parse("commit", value)


def test_policy_of_another_axis_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a policy or a mapping"):
        parse("cache", Threshold())


@pytest.mark.parametrize("kind", [None, 3, [], "no"])
def test_unknown_kind_is_refused(kind: object) -> None:
    with pytest.raises(ConfigError, match=r"`kind`=.* is unknown"):
        parse("commit", {"kind": kind})
