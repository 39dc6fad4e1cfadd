from __future__ import annotations

import math

import pytest
import torch

from dllmc.policies._registry import kinds, parse
from dllmc.policies.axes import AXES, BlockProgress, Commit, commit_oracle, commit_rows, rank
from dllmc.policies.commit.quota import Quota
from dllmc.policies.commit.threshold import Threshold
from dllmc.spec import ConfigError

ALL_KINDS = [(axis, kind) for axis in AXES for kind in kinds(axis)]


class Nothing(Commit):
    kind: str = "nothing"

    def values(self, progress: BlockProgress) -> dict[str, float]:
        return {}

    @staticmethod
    def select(doubt: torch.Tensor, eligible: torch.Tensor, values: object) -> torch.Tensor:
        del doubt, values
        return torch.zeros_like(eligible)

    def oracle(self, doubt: object, progress: BlockProgress) -> set[int]:
        return set()


class Everything(Nothing):
    @staticmethod
    def select(doubt: torch.Tensor, eligible: torch.Tensor, values: object) -> torch.Tensor:
        del doubt, values
        return torch.ones_like(eligible)


PROGRESS = BlockProgress(step=0, masks=4, blocks=1)
DOUBT = torch.tensor([[3.0, 1.0, 1.0, 0.0], [math.inf, math.inf, 5.0, math.inf], [1.0] * 4])
ELIGIBLE = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()


def test_a_row_with_anything_eligible_commits_its_surest_then_lowest_position() -> None:
    committed = commit_rows(Nothing, DOUBT, ELIGIBLE, {})
    assert committed.int().tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_the_oracle_gives_the_same_guarantee() -> None:
    assert commit_oracle(Nothing(), [3.0, 1.0, 1.0], PROGRESS) == {1}
    assert commit_oracle(Nothing(), [math.inf, math.inf], PROGRESS) == {0}
    assert commit_oracle(Nothing(), [], PROGRESS) == set()


def test_what_is_not_eligible_never_commits() -> None:
    assert torch.equal(commit_rows(Everything, DOUBT, ELIGIBLE, {}), ELIGIBLE)


def test_rank_puts_the_eligible_first_and_ties_by_position() -> None:
    assert rank(DOUBT, ELIGIBLE)[0].tolist() == [2, 0, 1, 3]
    assert rank(DOUBT, ELIGIBLE)[1].tolist() == [2, 0, 3, 1]


def test_rows_of_a_batch_have_their_own_values() -> None:
    values = {"count": torch.tensor([1.0, 2.0])}
    doubt = torch.tensor([[0.3, 0.2, 0.1]] * 2)
    committed = commit_rows(Quota, doubt, torch.ones(2, 3).bool(), values)
    assert committed.int().tolist() == [[0, 0, 1], [0, 1, 1]]


def test_kinds_are_found_by_scan() -> None:
    assert {axis: sorted(kinds(axis)) for axis in AXES} == {
        "schedule": ["blocks"],
        "belief": ["mask"],
        "score": ["probability"],
        "commit": ["dynamic", "factor", "quota", "threshold", "timesteps"],
        "cache": ["block_causal", "dual", "none", "prefix"],
        "verify": ["none"],
        "stop": ["eos", "length"],
        "constrain": ["none"],
        "revise": ["edit", "none"],
    }


@pytest.mark.parametrize(("axis", "kind"), ALL_KINDS)
def test_every_kind_is_made_from_its_name_alone(axis: str, kind: str) -> None:
    policy = parse(axis, {"kind": kind})
    assert (policy.axis, policy.kind) == (axis, kind)
    assert parse(axis, policy) is policy
    assert parse(axis, policy.model_dump(mode="json")) == policy


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
            assert getattr(policy(**{name: value}), name) == value


@pytest.mark.parametrize(("axis", "kind"), ALL_KINDS)
def test_every_policy_is_frozen_and_knows_its_fields(axis: str, kind: str) -> None:
    policy = parse(axis, {"kind": kind})
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
