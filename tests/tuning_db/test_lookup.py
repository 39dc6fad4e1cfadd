from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from example_records import CPU, FAST, key, record

from dllmc.spec import HardwareKey
from dllmc.tuning_db import Level, Store, lookup

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.tuning_db import Match, Record

OTHER_CPU = HardwareKey(kind="cpu", name="Other CPU", architecture="avx2", units=2)
MORE_THREADS = HardwareKey(kind="cpu", name="Generic CPU", architecture="avx2", units=8)
GPU = HardwareKey(kind="cuda", name="GPU", architecture="sm_90", units=132, memory_gib=141)
SLOW = {"commit": {"kind": "quota"}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "user")


def found(store: Store, records: list[Record], **query: Any) -> Match:
    for item in records:
        store.put(item)
    return lookup(key(**query), [store])


@pytest.mark.parametrize(
    ("query", "level", "reason"),
    [
        ({}, Level.EXACT, None),
        ({"name": "renamed"}, Level.EXACT, None),
        ({"batch": 1}, Level.BUCKET, "timed at batch 16 and 32 new tokens"),
        ({"batch": 17}, Level.SAFE, "holds for `batch` 1 to 16, not 17"),
        ({"max_new_tokens": 64}, Level.SAFE, "holds for `max_new_tokens` 32, not 64"),
        ({"torch": "2.12.0"}, Level.STALE_SPEED, "torch 2.13.0 is now 2.12.0"),
        ({"execution": "eager"}, Level.STALE_SPEED, "execution inductor-dynamic is now eager"),
        ({"hardware": OTHER_CPU}, Level.STALE_SPEED, "hardware cpu-avx2-generic-cpu-2 is now"),
        ({"hardware": MORE_THREADS}, Level.STALE_SPEED, "is now cpu-avx2-generic-cpu-8"),
        ({"hardware": MORE_THREADS, "batch": 17}, Level.SAFE, "holds for `batch`"),
        ({"hardware": GPU}, Level.SAFE, "another architecture than cuda-sm_90-gpu-132"),
        ({"task": "sort"}, Level.SAFE, "was confirmed on `copy` only, and this is another task"),
        ({"task": None}, Level.SAFE, "was confirmed on `copy` only, and no task is named"),
        ({"weights": "b2" * 32}, Level.SAFE, "FAMILY, which is never applied silently"),
        ({"numerics": "float32-eager-highest"}, Level.SAFE, "numerics `float32-inductor-highest`"),
        ({"dtype": "bfloat16"}, Level.SAFE, "FAMILY, which is never applied silently"),
        ({"weights": "b2" * 32, "family": "dream"}, Level.SAFE, "no record is near"),
    ],
)
def test_one_record_and_a_query(
    store: Store, query: dict[str, Any], level: Level, reason: str | None
) -> None:
    match = found(store, [record()], **query)
    assert match.level is level
    assert (match.config == FAST) == (level is not Level.SAFE)
    assert (match.record is None) == (level is Level.SAFE)
    if reason is None:
        assert match.reasons == []
    else:
        assert reason in match.reasons[0]


@pytest.mark.parametrize(
    ("old", "new", "level"),
    [
        ("550.54.15", "550.54.15", Level.EXACT),
        ("550.54.15", "580.65.06", Level.STALE_SPEED),
        (None, "580.65.06", Level.EXACT),
        ("550.54.15", None, Level.EXACT),
    ],
)
def test_another_driver_makes_speed_stale_where_both_are_known(
    store: Store, old: str | None, new: str | None, level: Level
) -> None:
    match = found(store, [record(driver=old)], driver=new)
    assert match.level is level
    stale = [r for r in match.reasons if "driver 550.54.15 is now 580.65.06" in r]
    assert bool(stale) == (level is Level.STALE_SPEED)


def test_an_empty_database_is_safe(store: Store) -> None:
    match = found(store, [])
    assert (match.level, match.config, match.near) == (Level.SAFE, None, None)
    assert match.reasons == ["no record is near; run dllmc tune"]


def test_another_task_needs_two_confirmed_ones_and_leave(store: Store) -> None:
    match = found(store, [record(), record(task="sort")], task="reverse")
    assert match.level is Level.SAFE
    assert match.near is not None
    assert match.near.id in match.reasons[0]
    assert "OTHER_TASK, which is never applied silently" in match.reasons[0]
    assert "confirmed on `copy`, `sort`" in match.reasons[0]
    allowed = lookup(key(task="reverse"), [store], allow={Level.OTHER_TASK})
    assert allowed.level is Level.OTHER_TASK
    assert allowed.config == FAST


def test_one_confirmed_task_does_not_serve_another_even_with_leave(store: Store) -> None:
    store.put(record())
    store.put(record(task="sort", config=SLOW))
    match = lookup(key(task="reverse"), [store], allow={Level.OTHER_TASK, Level.FAMILY})
    assert match.level is Level.SAFE


def test_tasks_confirmed_in_different_databases_count_together(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    one.put(record())
    two.put(record(task="sort"))
    match = lookup(key(task="reverse"), [one, two], allow={Level.OTHER_TASK})
    assert match.level is Level.OTHER_TASK


def test_other_weights_of_the_family_only_with_leave(store: Store) -> None:
    store.put(record())
    match = lookup(key(weights="b2" * 32), [store], allow={Level.FAMILY})
    assert match.level is Level.FAMILY
    assert "other weights" in match.reasons[0]


@pytest.mark.parametrize("status", ["searched", "rejected"])
def test_only_what_is_confirmed_is_applied(store: Store, status: str) -> None:
    assert found(store, [record(status=status)]).level is Level.SAFE


def test_the_best_level_wins_over_the_earlier_layer(tmp_path: Path) -> None:
    artifact, user = Store(tmp_path / "artifact", name="artifact"), Store(tmp_path / "user")
    artifact.put(record(torch="2.12.0"))
    user.put(record(config=SLOW))
    match = lookup(key(), [artifact, user])
    assert (match.level, match.layer, match.config) == (Level.EXACT, "user", SLOW)


def test_among_equal_levels_the_earlier_layer_wins(tmp_path: Path) -> None:
    artifact, user = Store(tmp_path / "artifact", name="artifact"), Store(tmp_path / "user")
    artifact.put(record())
    user.put(record(config=SLOW, started="2027-01-01T00:00:00+00:00"))
    match = lookup(key(), [artifact, user])
    assert (match.layer, match.config) == ("artifact", FAST)
    assert str(match) == f"EXACT {record().id} (artifact)"


def test_the_nearest_batch_by_ratio_wins(store: Store) -> None:
    match = found(
        store,
        [record(batch=4, batches=(1, 64), config=SLOW), record(batch=32, batches=(1, 64))],
        batch=12,
    )
    # 12 is three times 4, and 32 is 2.7 times 12.
    assert (match.level, match.config) == (Level.BUCKET, FAST)


def test_the_nearest_device_wins_when_speed_is_stale(store: Store) -> None:
    match = found(
        store,
        [record(hardware=OTHER_CPU, config=SLOW), record(hardware=MORE_THREADS)],
        hardware=CPU,
    )
    assert (match.level, match.config) == (Level.STALE_SPEED, FAST)


def test_the_newest_of_equal_records_wins(store: Store) -> None:
    newer = record(config=SLOW, started="2026-11-02T00:00:00+00:00")
    assert found(store, [record(), newer]).config == SLOW


@pytest.mark.parametrize("ratio", [1.2, 1.8])
def test_the_fastest_of_what_a_job_confirmed_wins(store: Store, ratio: float) -> None:
    match = found(store, [record(ratio=ratio), record(config=SLOW, ratio=1.5)])
    assert match.config == (FAST if ratio > 1.5 else SLOW)


def test_a_record_with_a_wider_margin_can_be_left_out(store: Store) -> None:
    store.put(record(margin=0.05))
    assert lookup(key(), [store], max_margin=0.02).level is Level.SAFE
    assert lookup(key(), [store], max_margin=0.05).level is Level.EXACT


def test_a_job_that_confirmed_nothing_says_so(store: Store) -> None:
    match = found(store, [record(status="safe", config=SLOW)])
    assert match.level is Level.SAFE
    assert match.config is None
    assert match.record is not None
    assert match.reasons == ["job copy-0 confirmed nothing faster: nothing passed"]


@pytest.mark.parametrize(
    ("margin", "started", "level"),
    [
        (0.01, "2026-11-02T00:00:00+00:00", Level.SAFE),
        (0.02, "2026-11-02T00:00:00+00:00", Level.EXACT),
        (0.01, "2026-10-01T00:00:00+00:00", Level.EXACT),
    ],
)
def test_a_later_job_with_a_smaller_margin_hides_what_a_wider_one_confirmed(
    store: Store, margin: float, started: str, level: Level
) -> None:
    settled = record(status="safe", config=SLOW, margin=margin, started=started)
    assert found(store, [record(), settled]).level is level
