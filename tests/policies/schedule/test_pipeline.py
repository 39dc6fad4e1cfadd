from __future__ import annotations

import pytest

from dllmc.policies.config import DecodingConfig
from dllmc.policies.schedule.pipeline import Pipeline
from dllmc.policies.standing import Part
from dllmc.spec import ConfigError, DenoiserSpec

SPANS = [(3, 7), (7, 11), (11, 15)]
FULL = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
CAUSAL = FULL.model_copy(
    update={"attention": "block_causal", "block_length": 4, "blocks_from": "response"}
)


def masks(*counts: int) -> set[int]:
    """So many masked positions at the end of each block."""
    return {
        p for (_, end), count in zip(SPANS, counts, strict=True) for p in range(end - count, end)
    }


def test_the_next_block_is_begun_when_enough_of_the_last_is_decoded() -> None:
    policy = Pipeline(add_threshold=0.5)
    begun = [policy.begun(SPANS, masks(left, 4, 4), 1, ended=False) for left in (4, 3, 2, 1, 0)]
    assert begun == [1, 1, 2, 2, 2]


def test_the_first_is_begun_at_once_and_no_more_than_there_are() -> None:
    policy = Pipeline(add_threshold=1)
    assert policy.begun(SPANS, masks(4, 4, 4), 0, ended=False) == 1
    assert policy.begun(SPANS, masks(0, 0, 0), 3, ended=False) == 3


def test_one_is_begun_at_a_time() -> None:
    policy = Pipeline(add_threshold=0)
    found = [policy.begun(SPANS, masks(4, 4, 4), begun, ended=False) for begun in range(4)]
    assert found == [1, 2, 3, 3]


def test_none_is_begun_after_the_end_of_the_response() -> None:
    policy = Pipeline(add_threshold=0.5)
    assert policy.begun(SPANS, masks(0, 4, 4), 1, ended=True) == 1
    # What was cut off is not begun any more.
    assert policy.begun(SPANS[:2], masks(0, 0, 0), 3, ended=False) == 2


def test_begun_blocks_with_masks_are_decided_over_apart() -> None:
    policy = Pipeline(activate_threshold=0.75)
    assert policy.active(SPANS, masks(0, 2, 4), 2) == [Part((7, 11))]
    assert policy.active(SPANS, masks(0, 0, 4), 2) == []


def test_a_block_may_wait_until_enough_of_the_one_before_is_decoded() -> None:
    policy = Pipeline(activate_threshold=0.75)
    waiting = policy.active(SPANS, masks(2, 1, 4), 3)
    assert waiting == [Part((3, 7)), Part((7, 11), waits=True), Part((11, 15))]
    going = policy.active(SPANS, masks(1, 2, 4), 3)
    assert going == [Part((3, 7)), Part((7, 11)), Part((11, 15), waits=True)]


def test_at_1_the_blocks_follow_one_another() -> None:
    policy = Pipeline(add_threshold=1, activate_threshold=1)
    assert policy.begun(SPANS, masks(1, 4, 4), 1, ended=False) == 1
    assert policy.begun(SPANS, masks(0, 4, 4), 1, ended=False) == 2
    assert policy.active(SPANS, masks(0, 4, 4), 2) == [Part((7, 11))]


def test_it_is_for_block_causal_attention() -> None:
    Pipeline().check_model(CAUSAL)
    with pytest.raises(ConfigError, match=r"`schedule\.kind`='pipeline'.* use 'blocks'"):
        Pipeline().check_model(FULL)


def test_the_tuner_tries_it_where_blocks_are_counted_from_the_response() -> None:
    assert Pipeline.suits(CAUSAL)
    assert not Pipeline.suits(CAUSAL.model_copy(update={"blocks_from": "canvas"}))
    assert not Pipeline.suits(FULL)


@pytest.mark.parametrize(
    ("policies", "why"),
    [
        ({"commit": {"kind": "quota", "steps": 4}}, "shared with those of its neighbours"),
        ({"revise": {"kind": "remask"}}, "this goes block by block"),
        ({"cache": {"kind": "dkv"}}, "says nothing of a block that was just begun"),
        ({"verify": {"kind": "self_speculation"}}, "this schedule decodes several"),
    ],
)
def test_what_does_not_go_with_it_is_refused(policies: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        DecodingConfig(schedule={"kind": "pipeline"}, **policies)


@pytest.mark.parametrize("fields", [{"add_threshold": -0.1}, {"activate_threshold": 1.1}])
def test_bad_values_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(fields))}`"):
        Pipeline(**fields)
