from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from example_records import CPU, FAST, WEIGHTS, record

from dllmc.tuning_db import (
    EvidenceStore,
    Outcome,
    Pair,
    QualityEvidence,
    QualityKey,
    SpeedKey,
    Store,
    Workload,
    sample_id,
    split_digest,
    verify,
)

if TYPE_CHECKING:
    from pathlib import Path

QUALITY = QualityKey(
    weights_sha256=WEIGHTS,
    dtype="float32",
    numerics="float32-inductor-highest",
    task="copy",
    max_new_tokens=32,
    config=FAST,
)
SPEED = SpeedKey(
    weights_sha256=WEIGHTS,
    dtype="float32",
    numerics="float32-inductor-highest",
    hardware=CPU,
    software={"torch": "2.13.0"},
    execution="inductor-dynamic",
    workload=Workload(task="copy", max_new_tokens=32, batch=16),
    config=FAST,
)
PLANS = (("b16-w96", 1), ("b16-w32", 3), ("b16-w96", 1))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_outcomes_survive_the_file_with_the_order_of_their_plans(store: Store) -> None:
    evidence = EvidenceStore(store).quality(QUALITY)
    evidence.add("p1", True, 5, [7, 8], PLANS)
    evidence.add("p2", False, 5, [7, 9], PLANS)
    EvidenceStore(store).save_quality(evidence)
    read = EvidenceStore(Store(store.root)).quality(QUALITY)
    assert read == evidence
    assert read.outcomes["p1"][:2] == (True, 5)
    assert read.plans_of("p2") == PLANS
    assert len(read.sequences) == 1


def test_equal_answers_are_told_from_different_ones() -> None:
    evidence = QualityEvidence(key=QUALITY)
    for sample, tokens in (("p1", [7, 8]), ("p2", [7, 8]), ("p3", [78])):
        evidence.add(sample, True, 1, tokens, ())
    first, second, third = evidence.outcomes.values()
    assert first.answer == second.answer != third.answer


def test_a_prompt_counts_once(store: Store) -> None:
    evidence = QualityEvidence(key=QUALITY)
    evidence.add("p1", True, 5, [7], PLANS)
    evidence.add("p1", False, 6, [8], PLANS)
    assert [outcome[:2] for outcome in evidence.outcomes.values()] == [(False, 6)]


def test_what_two_writers_learnt_is_kept(store: Store) -> None:
    evidence = EvidenceStore(store)
    one, two = evidence.quality(QUALITY), evidence.quality(QUALITY)
    one.add("p1", True, 5, [7], PLANS)
    two.add("p2", False, 2, [8], (("b16-w32", 2),))
    evidence.save_quality(one)
    evidence.save_quality(two)
    read = evidence.quality(QUALITY)
    assert read.outcomes["p1"] == Outcome(True, 5, one.outcomes["p1"].answer, 1)
    assert read.plans_of("p1") == PLANS
    assert read.plans_of("p2") == (("b16-w32", 2),)


def test_other_configurations_have_other_files(store: Store) -> None:
    evidence = EvidenceStore(store)
    other = QUALITY.model_copy(update={"config": {"commit": {"kind": "quota"}}})
    assert evidence.quality_path(QUALITY) != evidence.quality_path(other)
    assert evidence.quality_path(QUALITY).parent == evidence.quality_path(other).parent


def test_timings_survive_the_file(store: Store) -> None:
    evidence = EvidenceStore(store)
    speed = evidence.speed(SPEED)
    speed.pairs.append(
        Pair(
            batch="b1",
            against="SPEED_BASELINE",
            seconds=0.5,
            against_seconds=1.0,
            tokens=99,
            phase="search",
        )
    )
    evidence.save_speed(speed)
    assert evidence.speed(SPEED).pairs == speed.pairs
    assert evidence.speed(SPEED).pairs[0].ratio == 2.0


@pytest.mark.parametrize("text", ["", "[]", '{"key": 1}', '{"schema_version": 9}'])
def test_a_damaged_file_counts_as_absent_and_is_reported(store: Store, text: str) -> None:
    evidence = EvidenceStore(store)
    evidence.save_quality(evidence.quality(QUALITY))
    evidence.save_speed(evidence.speed(SPEED))
    for path in (evidence.quality_path(QUALITY), evidence.speed_path(SPEED)):
        path.write_text(text)
    assert evidence.quality(QUALITY).outcomes == {}
    assert evidence.speed(SPEED).pairs == []
    assert len(verify(store)) == 2


def test_evidence_is_no_record(store: Store) -> None:
    store.put(record())
    evidence = EvidenceStore(store)
    evidence.save_quality(evidence.quality(QUALITY))
    evidence.save_speed(evidence.speed(SPEED))
    assert store.records() == [record()]
    assert verify(store) == []


def test_a_file_of_another_key_counts_as_absent(store: Store) -> None:
    evidence = EvidenceStore(store)
    evidence.save_quality(evidence.quality(QUALITY))
    path = evidence.quality_path(QUALITY)
    value = json.loads(path.read_text())
    value["key"]["task"] = "sort"
    path.write_text(json.dumps(value))
    assert evidence.quality(QUALITY).key == QUALITY
    assert "holds another key" in verify(store)[0]


def test_a_prompt_with_another_reference_is_another_prompt() -> None:
    assert sample_id("p", "a", "exact") == sample_id("p", "a", "exact")
    assert len({sample_id("p", "a", "exact"), sample_id("p", "b", "exact")}) == 2
    assert sample_id("p", ("a",), "one-of") == sample_id("p", ["a"], "one-of")


def test_a_split_is_known_by_its_prompts_in_any_order() -> None:
    assert split_digest(["a", "b"]) == split_digest(["b", "a"]) != split_digest(["a"])
