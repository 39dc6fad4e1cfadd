from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllmc.policies._registry import kinds
from dllmc.policies.cache.dual import DualCache
from dllmc.policies.cache.none import NoCache
from dllmc.policies.commit.quota import Quota
from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.config import QUALITY_REFERENCE, SAFE, SPEED_BASELINE, DecodingConfig
from dllmc.policies.stop.eos import EosStop
from dllmc.spec import ConfigError, DenoiserSpec


def known(axis: str) -> str:
    return ", ".join(sorted(kinds(axis)))


def test_default_is_the_speed_baseline() -> None:
    assert DecodingConfig() == SPEED_BASELINE
    assert SPEED_BASELINE.commit == Threshold(threshold=0.9)
    assert SPEED_BASELINE.cache == DualCache(refresh_every=None)
    assert SPEED_BASELINE.stop == EosStop()


def test_quality_reference_is_one_token_per_step_without_cache() -> None:
    assert (QUALITY_REFERENCE.commit, QUALITY_REFERENCE.cache) == (Quota(steps=None), NoCache())
    assert QUALITY_REFERENCE.stop == EosStop()
    assert QUALITY_REFERENCE.temperature == 0
    assert SAFE == QUALITY_REFERENCE


def test_policies_and_mappings_are_the_same() -> None:
    written = DecodingConfig(commit={"kind": "quota", "steps": 8}, cache={"kind": "none"})
    assert written == DecodingConfig(commit=Quota(steps=8), cache=NoCache())


def test_configuration_of_the_documentation() -> None:
    text = """
        {"schedule": {"kind": "blocks", "block_length": 32}, "score": {"kind": "probability"},
         "commit": {"kind": "threshold", "threshold": 0.9},
         "cache": {"kind": "dual", "refresh_every": null, "refresh_commits": "auto",
                   "window_first": "self"},
         "stop": {"kind": "eos"}, "temperature": 0.0, "seed": 0}
    """
    assert DecodingConfig.from_json(text) == SPEED_BASELINE


def test_canonical_json_is_sorted_and_complete() -> None:
    text = SPEED_BASELINE.canonical_json()
    fields = json.loads(text)
    assert list(fields) == sorted(fields)
    assert " " not in text
    assert fields["commit"] == {"kind": "threshold", "threshold": 0.9}
    assert fields["cache"]["refresh_every"] is None
    assert set(fields) == set(DecodingConfig.model_fields)


@given(
    commit=st.one_of(
        st.builds(lambda t: {"kind": "threshold", "threshold": t}, st.floats(0.01, 1)),
        st.builds(lambda f: {"kind": "factor", "factor": f}, st.floats(0.01, 1e9)),
        st.builds(lambda s: {"kind": "quota", "steps": s}, st.none() | st.integers(1, 9999)),
    ),
    cache=st.builds(
        lambda kind, every: {"kind": kind, "refresh_every": every},
        st.sampled_from(["dual", "prefix"]),
        st.none() | st.integers(1, 99),
    ),
    block_length=st.integers(1, 4096),
    temperature=st.floats(0, 100),
    seed=st.integers(0, 2**63 - 1),
)
def test_json_comes_back_the_same(block_length: int, **fields: Any) -> None:
    config = DecodingConfig(schedule={"kind": "blocks", "block_length": block_length}, **fields)
    again = DecodingConfig.from_json(config.canonical_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.canonical_json() == config.canonical_json()


def test_replace_changes_some_fields_and_checks_them() -> None:
    changed = QUALITY_REFERENCE.replace(cache={"kind": "dual"}, seed=4)
    assert changed == DecodingConfig(commit=Quota(), cache=DualCache(), seed=4)
    assert QUALITY_REFERENCE.seed == 0
    with pytest.raises(ConfigError, match="`temperature`=-1"):
        QUALITY_REFERENCE.replace(temperature=-1)


def test_statistics_follow_the_temperature() -> None:
    assert DecodingConfig().statistics == "greedy"
    assert DecodingConfig(temperature=0.1).statistics == "sampled"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"commit": {"kind": "threshold", "threshold": 1.5}},
            "`commit.threshold`=1.5: input should be less than or equal to 1",
        ),
        (
            {"commit": {"kind": "treshold"}},
            "`commit.kind`='treshold' is unknown; did you mean `threshold`? "
            f"Known: {known('commit')}",
        ),
        ({"commit": {}}, f"`commit.kind` is missing; known: {known('commit')}"),
        ({"commit": {"kind": None}}, f"`commit.kind`=None is unknown; known: {known('commit')}"),
        ({"commit": "quota"}, "`commit`='quota': must be a policy or a mapping with a `kind`"),
        ({"cache": {"kind": "none", "refresh": 3}}, "`cache.refresh` is not a known field"),
        ({"comit": {"kind": "quota"}}, "`comit` is not a known field"),
        ({"seed": -1}, "`seed`=-1: input should be greater than or equal to 0"),
        ({"temperature": float("nan")}, "`temperature`=nan: input should be a finite number"),
        (
            {"seed": 1.5, "stop": {"kind": "eoss"}},
            f"`stop.kind`='eoss' is unknown; did you mean `eos`? Known: {known('stop')}; "
            "`seed`=1.5: input should be a valid integer, got a number with a fractional part",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DecodingConfig(**fields)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the decoding configuration is not JSON"),
        ("[1]", r"a decoding configuration is a JSON object, not '\[1\]'"),
        ('{"seed": "x"}', "`seed`='x'"),
    ],
)
def test_bad_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecodingConfig.from_json(text)


def test_quota_must_divide_over_the_blocks_of_the_response() -> None:
    config = DecodingConfig(
        schedule={"kind": "blocks", "block_length": 8}, commit={"kind": "quota", "steps": 10}
    )
    config.check(16)
    config.check(33)
    with pytest.raises(ConfigError) as caught:
        config.check(32)
    assert str(caught.value) == (
        "`commit.steps`=10 does not divide over 4 blocks of a response of 32 tokens; use 8 or 12"
    )


def test_a_policy_that_does_not_suit_the_model_is_refused() -> None:
    spec = DenoiserSpec(mask_id=9, vocab_size=10, max_length=64)
    SPEED_BASELINE.check_model(spec)
    SPEED_BASELINE.check_model(spec.model_copy(update={"logit_shift": 1}))
    blocks = {"attention": "block_causal", "block_length": 8}
    appended = SPEED_BASELINE.replace(cache={"kind": "block_causal"})
    appended.check_model(spec.model_copy(update=blocks))
    with pytest.raises(ConfigError, match=r"`cache\.kind`='block_causal' needs block-causal"):
        appended.check_model(spec)
