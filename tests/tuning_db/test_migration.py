"""What earlier versions wrote is read as it was meant, and stays as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dllmc.tuning_db import EvidenceStore, Level, Store, lookup, verify
from dllmc.tuning_db.evidence import QualityEvidence, SpeedEvidence, read_evidence

OLD = Path(__file__).parent / "assets" / "schema-1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "db"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_records_of_schema_1_keep_their_ids_and_are_found(root: Path) -> None:
    records = Store(root).records()
    assert {r.id for r in records} == {path.stem for path in OLD.glob("v1/cpu*/*/*.json")}
    [confirmed] = [r for r in records if r.status == "confirmed"]
    assert lookup(confirmed.key, [Store(root)]).level is Level.EXACT
    assert confirmed.neutral == {}
    assert confirmed.key.model.graph_sha256 is None


def test_reading_and_writing_leave_earlier_files_as_they_are(root: Path) -> None:
    before = files(root / "v1")
    store = Store(root)
    written = store.put(store.records()[0])
    assert written.is_relative_to(root / "v2")
    assert files(root / "v1") == before
    assert len(store.records()) == len(Store(OLD).records())
    assert verify(store) == []


def test_what_this_version_wrote_comes_before_what_an_earlier_one_did(root: Path) -> None:
    store = Store(root)
    [old] = [record for record in store.records() if record.status == "confirmed"]
    store.put(old.model_copy(update={"reason": "measured again"}))
    [new] = [record for record in store.records() if record.id == old.id]
    assert new.reason == "measured again"


def test_answers_of_schema_1_are_known_and_their_plans_are_not(root: Path) -> None:
    [path] = OLD.glob("v1/evidence/quality/*/*.json")
    old = read_evidence(path, QualityEvidence)
    assert old is not None
    found = EvidenceStore(Store(root)).quality(old.key)
    assert found.outcomes.keys() == old.outcomes.keys()
    name = next(iter(found.outcomes))
    assert found.outcomes[name][:3] == old.outcomes[name][:3]
    assert found.plans_of(name) == ()
    [listed] = EvidenceStore(Store(root)).every_quality(old.key.weights_sha256)
    assert listed.key == old.key


def test_timings_of_schema_1_are_taken_up_once(root: Path) -> None:
    [path] = OLD.glob("v1/evidence/speed/*/*/*.json")
    old = read_evidence(path, SpeedEvidence)
    assert old is not None
    evidence = EvidenceStore(Store(root))
    for _ in range(2):
        found = evidence.speed(old.key)
        assert len(found.pairs) == len(old.pairs)
        evidence.save_speed(found)


def test_a_record_of_a_newer_schema_is_a_miss_with_a_reason(root: Path) -> None:
    store = Store(root)
    path = store.put(store.records()[0])
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"schema_version": 3}))
    [problem] = [line for line in store.problems() if str(path) in line]
    assert "has `schema_version`=3 and this dllmc reads up to 2" in problem
