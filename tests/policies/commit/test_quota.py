from __future__ import annotations

import pytest
from rows.made import predictions

from dllmc.policies.commit.quota import Quota
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError


def counts(steps: int | None, masks: int, blocks: int = 1, evaluations: int = 4) -> list[float]:
    quota = Quota(steps=steps)
    progresses = [BlockProgress(step, masks, blocks) for step in range(evaluations)]
    assert [quota.values(p)["count"] for p in progresses] == [quota.count(p) for p in progresses]
    return [quota.count(progress) for progress in progresses]


def test_one_token_each_by_default() -> None:
    assert counts(None, 32) == [1, 1, 1, 1]


def test_masks_are_shared_evenly_and_the_first_steps_take_the_rest() -> None:
    assert counts(4, 8) == [2, 2, 2, 2]
    assert counts(4, 10) == [3, 3, 2, 2]
    assert counts(4, 3) == [1, 1, 1, 0]


def test_steps_are_shared_over_the_blocks() -> None:
    assert counts(8, 8, blocks=2) == [2, 2, 2, 2]
    assert counts(2, 8, blocks=2, evaluations=1) == [8]


def test_the_surest_commit_and_ties_go_to_the_lowest_position() -> None:
    progress = BlockProgress(step=0, masks=6, blocks=2)
    asked = predictions([5.0, 0.5, 2.0, 0.5, 0.5])
    assert Quota(steps=4).oracle(asked, progress) == {1, 3, 4}


@pytest.mark.parametrize(
    ("steps", "blocks", "hint"), [(10, 4, "use 8 or 12"), (3, 4, "use 4"), (31, 2, "use 30 or 32")]
)
def test_steps_that_do_not_divide_are_refused(steps: int, blocks: int, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"`commit\.steps`={steps} does not .*; {hint}$"):
        Quota(steps=steps).check(32, blocks)


def test_steps_that_divide_are_accepted() -> None:
    Quota(steps=8).check(32, 4)
    Quota().check(31, 7)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_bad_steps_are_refused(steps: float) -> None:
    with pytest.raises(ConfigError, match=f"`steps`={steps}"):
        Quota(steps=steps)


def test_steps_are_tuned() -> None:
    knob = Quota.knobs()["steps"]
    assert (knob.low, knob.high, knob.scale, knob.lossy) == (1, 1024, "log", True)
    assert not knob.structural
