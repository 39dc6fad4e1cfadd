"""Two databases become one without loss, and what no lookup uses goes aside."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from example_records import WEIGHTS, key, record

from dllmc.spec import TuningDatabaseError
from dllmc.tuning_db import (
    EvidenceStore,
    Pair,
    QualityKey,
    SpeedKey,
    Store,
    difference,
    merge,
    prune,
    verify,
)
from dllmc.tuning_db.plan_speed import Latency, PlanSpeedKey, PlanSpeedStore
from dllmc.tuning_db.verdicts import StoredVerdict, VerdictKey, VerdictStore

if TYPE_CHECKING:
    from pathlib import Path

QUALITY = QualityKey(
    weights_sha256=WEIGHTS,
    dtype="float32",
    numerics="n",
    task="copy",
    max_new_tokens=32,
    config={},
)
SPEED = SpeedKey(
    weights_sha256=WEIGHTS,
    dtype="float32",
    numerics="n",
    hardware=key().hardware,
    software={},
    execution="eager",
    workload=key().workload,
    config={},
)
PLANS = PlanSpeedKey(
    weights_sha256=WEIGHTS,
    dtype="float32",
    numerics="n",
    hardware=key().hardware,
    software={},
    execution="eager",
)
VERDICTS = VerdictKey(
    weights_sha256=WEIGHTS, dtype="float32", numerics="n", task="copy", max_new_tokens=32
)


def learn(store: Store, prompts: list[str], pairs: list[str]) -> None:
    evidence = EvidenceStore(store)
    quality = evidence.quality(QUALITY)
    for name in prompts:
        quality.add(name, correct=True, nfe=3, tokens=(1, 2), plans=(("p", 3),))
    evidence.save_quality(quality)
    speed = evidence.speed(SPEED)
    for name in pairs:
        speed.pairs.append(
            Pair(
                batch="b",
                against="SPEED_BASELINE",
                seconds=1.0,
                against_seconds=2.0,
                tokens=5,
                phase="search",
                id=name,
            )
        )
    evidence.save_speed(speed)


def latency(store: Store, plan: str) -> None:
    speeds = PlanSpeedStore(store).load(PLANS)
    speeds.plans[plan] = Latency(n=1, median=1.0, low=1.0, high=1.0)
    PlanSpeedStore(store).save(speeds)


def verdict(store: Store, study: str) -> None:
    found = StoredVerdict(
        config={},
        seed=0,
        study=study,
        margin=0.02,
        n=9,
        wins=0,
        losses=0,
        reference_right=9,
        lower_bound=-0.5,
        p_value=0.9,
        passed=False,
        test="t",
        metric="exact",
        split_sha256="0",
        outcomes_sha256="0",
        started="2026-01-01",
    )
    VerdictStore(store).save(VERDICTS, study, [found])


def test_everything_of_both_is_there_and_nothing_twice(tmp_path: Path) -> None:
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    learn(ours, ["a", "b"], ["1", "2"])
    learn(theirs, ["b", "c", "d"], ["2", "3"])
    latency(ours, "x")
    latency(theirs, "y")
    verdict(ours, "one")
    verdict(theirs, "two")
    ours.put(record(task="copy"))
    theirs.put(record(task="sort"))
    for again in (False, True):
        done = merge(ours, theirs)
        assert (done.outcomes, done.pairs, done.plans, done.verdicts) == (
            (0, 0, 0, 0) if again else (2, 1, 1, 1)
        )
        evidence = EvidenceStore(ours)
        assert set(evidence.quality(QUALITY).outcomes) == {"a", "b", "c", "d"}
        assert evidence.quality(QUALITY).plans_of("d") == (("p", 3),)
        assert sorted(pair.id for pair in evidence.speed(SPEED).pairs) == ["1", "2", "3"]
        assert set(PlanSpeedStore(ours).load(PLANS).plans) == {"x", "y"}
        assert {v.study for v in VerdictStore(ours).load(VERDICTS)} == {"one", "two"}
        assert {r.key.workload.task for r in ours.records()} == {"copy", "sort"}
    assert verify(ours) == []


def test_of_equal_records_the_newer_jobs_is_kept(tmp_path: Path) -> None:
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    ours.put(record(started="2026-02-01T00:00:00+00:00", margin=0.01))
    theirs.put(record(started="2026-01-01T00:00:00+00:00", margin=0.05))
    merge(ours, theirs)
    assert [r.margin for r in ours.records()] == [0.01]
    merge(theirs, ours)
    assert [r.margin for r in theirs.records()] == [0.01]


def test_a_database_is_not_merged_into_itself(tmp_path: Path) -> None:
    with pytest.raises(TuningDatabaseError, match="cannot be merged into itself"):
        merge(Store(tmp_path), Store(tmp_path / "." / "x" / ".."))


def test_a_read_only_database_takes_nothing(tmp_path: Path) -> None:
    learn(Store(tmp_path / "theirs"), ["a"], [])
    with pytest.raises(TuningDatabaseError, match="is read-only"):
        merge(Store(tmp_path / "ours", read_only=True), Store(tmp_path / "theirs"))


MERGE = """
import sys
from dllmc.tuning_db import Store, merge
merge(Store(sys.argv[1]), Store(sys.argv[2], name="source", read_only=True))
"""


def start(into: Path, source: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", MERGE, str(into), str(source)], cwd="/")


def test_two_merges_at_once_lose_nothing_and_neither_does_one_that_is_killed(
    tmp_path: Path,
) -> None:
    rng = random.Random(0)
    for index in range(3):
        source = Store(tmp_path / str(index))
        learn(source, [f"{index}-{n}" for n in range(300)], [f"{index}-{n}" for n in range(20)])
        for task in range(30):
            source.put(record(task=f"t{index}-{task}"))
    into = tmp_path / "into"
    for _ in range(3):
        doomed = start(into, tmp_path / "2")
        time.sleep(rng.uniform(0.15, 0.6))
        doomed.kill()
        doomed.wait()
    both = [start(into, tmp_path / str(index)) for index in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    merge(Store(into), Store(tmp_path / "2"))
    found = EvidenceStore(Store(into))
    assert len(found.quality(QUALITY).outcomes) == 900
    assert len({pair.id for pair in found.speed(SPEED).pairs}) == 60
    assert len(found.speed(SPEED).pairs) == 60
    assert len(Store(into).records()) == 90
    assert verify(Store(into)) == []


@pytest.mark.parametrize("how", ["cut", "flip"])
def test_a_file_damaged_anywhere_is_a_miss_or_harmless(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    good = record(task="copy")
    store.put(good)
    other = record(task="sort")
    path = store.put(other)
    content, rng = path.read_bytes(), random.Random(how)
    for _ in range(150):
        where = rng.randrange(len(content))
        damaged = bytearray(content)
        if how == "cut":
            del damaged[where:]
        else:
            damaged[where] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        found = {r.id: r for r in Store(tmp_path).records()}
        assert found[good.id] == good
        assert found.get(other.id, other) == other


def test_pruning_moves_damaged_rejected_and_outdated_records_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = store.put(record(torch="2.11.0", started="2026-01-01T00:00:00+00:00"))
    new = store.put(record(torch="2.13.0", started="2026-02-01T00:00:00+00:00"))
    alone = store.put(record(torch="2.11.0", task="sort"))
    rejected = store.put(record(task="count", status="rejected"))
    bad = new.with_name("0" * 24 + ".json")
    bad.write_text("{")
    assert {path for path, _ in prune(store, dry_run=True).files} == {old, rejected, bad}
    assert all(path.exists() for path in (old, new, alone, rejected, bad))
    done = prune(store)
    assert done.folder is not None
    assert not any(path.exists() for path in (old, rejected, bad))
    assert {p.name for p in done.folder.rglob("*.json")} == {p.name for p in (old, rejected, bad)}
    assert new.exists()
    assert alone.exists()
    assert prune(store).files == []


def test_pruning_deletes_only_where_it_is_told_to(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rejected = store.put(record(status="rejected"))
    prune(store, delete=True)
    assert not list(tmp_path.rglob(rejected.name))


def test_a_full_disk_leaves_both_databases_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    learn(ours, ["a"], ["1"])
    learn(theirs, ["b"], ["2"])
    shutil.copytree(tmp_path / "ours", tmp_path / "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TuningDatabaseError, match="No space left on device"):
        merge(ours, theirs)
    monkeypatch.undo()
    assert set(EvidenceStore(ours).quality(QUALITY).outcomes) == {"a"}
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_difference_of_records_is_by_field() -> None:
    one, other = record(task="copy"), record(task="copy", torch="9.9", margin=0.05)
    found = {item.name: (item.one, item.other) for item in difference(one, other)}
    assert found["key.software.torch"] == ("2.13.0", "9.9")
    assert found["provenance.margin"] == (0.02, 0.05)
    assert "key.workload.task" not in found
    assert difference(one, one) == []
