from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from example_records import record

from dllmc.spec import TuningDatabaseError
from dllmc.tuning_db import (
    Store,
    export_records,
    find_record,
    import_records,
    list_records,
    verify,
)

if TYPE_CHECKING:
    from pathlib import Path

LATER = "2026-11-05T00:00:00+00:00"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "db")


def test_records_are_listed_by_layer_and_age(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "other", name="other")
    store.put(record())
    store.put(record(task="sort", started=LATER))
    other.put(record(task="reverse", status="rejected"))
    listed = list_records([store, other])
    assert [item.record.key.workload.task for item in listed] == ["sort", "copy", "reverse"]
    assert [item.layer for item in listed] == ["user", "user", "other"]
    assert all(item.path.is_file() for item in listed)
    assert [item.record for item in list_records([store], task="copy")] == [record()]
    assert [item.layer for item in list_records([store, other], status="rejected")] == ["other"]


def test_a_record_is_found_by_the_head_of_its_id(store: Store) -> None:
    store.put(record())
    assert find_record([store], record().id[:6]).record == record()
    with pytest.raises(TuningDatabaseError, match="there is no record `zz`"):
        find_record([store], "zz")
    with pytest.raises(TuningDatabaseError, match="there is no record `zz`; there are none"):
        find_record([], "zz")


def test_a_head_of_several_ids_is_refused(store: Store) -> None:
    for batch in range(1, 40):
        store.put(record(batch=batch, batches=(1, 64)))
    heads = [item.record.id[0] for item in list_records([store])]
    common = max(heads, key=heads.count)
    with pytest.raises(TuningDatabaseError, match=f"`{common}` begins {heads.count(common)} ids"):
        find_record([store], common)


def test_an_exported_file_imports_elsewhere(tmp_path: Path, store: Store) -> None:
    records = [record(), record(task="sort")]
    assert export_records(records, tmp_path / "out.json") == 2
    imported = import_records(store, tmp_path / "out.json")
    assert sorted(imported.written) == sorted(item.id for item in records)
    assert len(store.records()) == 2
    again = import_records(store, tmp_path / "out.json")
    assert (again.written, len(again.kept)) == ([], 2)


def test_a_database_or_one_record_file_imports_too(tmp_path: Path, store: Store) -> None:
    source = Store(tmp_path / "source")
    path = source.put(record())
    source.put(record(task="sort"))
    assert import_records(store, path).written == [record().id]
    assert import_records(store, source.root).kept == [record().id]
    assert len(store.records()) == 2


def test_the_newer_of_two_records_of_one_id_is_kept(tmp_path: Path, store: Store) -> None:
    export_records([record(started=LATER, margin=0.01)], tmp_path / "new.json")
    export_records([record(margin=0.05)], tmp_path / "old.json")
    store.put(record())
    import_records(store, tmp_path / "new.json")
    import_records(store, tmp_path / "old.json")
    assert [item.margin for item in store.records()] == [0.01]


def test_a_wrong_record_is_skipped_by_name_and_the_others_imported(
    tmp_path: Path, store: Store
) -> None:
    path = tmp_path / "mixed.json"
    export_records([record(), record(task="sort")], path)
    value = json.loads(path.read_text())
    value["records"][0]["config"] = {}
    path.write_text(json.dumps(value))
    imported = import_records(store, path)
    assert (len(imported.written), len(imported.skipped)) == (1, 1)
    assert "hash to" in imported.skipped[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "is not JSON"),
        ("[]", "holds no records"),
        (
            '{"format": "dllmc tuning database", "version": 2, "records": []}',
            "is of version 2 and this dllmc knows version 1; update dllmc",
        ),
        ('{"format": "dllmc tuning database", "version": 1}', "has no list `records`"),
    ],
)
def test_a_wrong_source_is_refused_and_nothing_is_written(
    tmp_path: Path, store: Store, text: str, message: str
) -> None:
    (tmp_path / "source.json").write_text(text)
    with pytest.raises(TuningDatabaseError, match=message):
        import_records(store, tmp_path / "source.json")
    assert not store.root.exists()


def test_a_missing_source_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(TuningDatabaseError, match=r"cannot read .*\(No such file"):
        import_records(store, tmp_path / "absent.json")


def test_an_export_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("mine")
    with pytest.raises(TuningDatabaseError, match="exists; delete it or name another file"):
        export_records([record()], tmp_path / "out.json")
    assert (tmp_path / "out.json").read_text() == "mine"


def test_verify_finds_records_that_contradict_themselves(store: Store) -> None:
    store.put(record())
    assert verify(store) == []
    store.put(record(task="sort", lower_bound=-0.03))
    store.put(record(task="reverse", batches=(1, 8)))
    problems = verify(store)
    assert len(problems) == 2
    assert any("its lower bound -0.0300 is not above -0.02" in line for line in problems)
    assert any("measured outside its own range of batches" in line for line in problems)
