from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import dllmc as package
from dllmc.policies.config import DecodingConfig
from dllmc.runtime.records import key_of
from dllmc.tuning_db import (
    AppliesTo,
    Provenance,
    Quality,
    Range,
    Record,
    Speed,
    SplitId,
    Store,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = DecodingConfig(commit={"kind": "threshold", "threshold": 0.6})
PROMPTS = SplitId(n=300, sha256="0" * 64)


@pytest.fixture
def record(artifact: Path, own_database: Path) -> Record:
    """What a tuning job of `copy` on this machine would have written for the artifact."""
    found = Record(
        key=key_of(package.load(artifact), task="copy", batch=4, max_new_tokens=32),
        applies_to=AppliesTo(batch=Range(low=1, high=4), max_new_tokens=Range(low=32, high=32)),
        config=CONFIG.model_dump(mode="json"),
        speed=Speed(
            n=9,
            ratio=1.25,
            interval=(1.2, 1.3),
            reference_ratio=20.0,
            reference_interval=(19.0, 21.0),
            tokens_per_second=5000.0,
            nfe_mean=1.5,
        ),
        quality=Quality(
            metric="exact",
            n=300,
            reference_value=0.99,
            value=0.98,
            difference=-0.01,
            lower_bound=-0.015,
            margin=0.02,
            p_value=0.01,
            test="paired",
            split="confirm",
            outcomes_sha256="0" * 64,
        ),
        status="confirmed",
        provenance=Provenance(
            study="mine",
            trial=3,
            seed=0,
            started="2026-01-01T00:00:00+00:00",
            command="dllmc tune",
            tune=PROMPTS,
            confirm=PROMPTS,
            noise_floor=0.02,
            margin=0.02,
        ),
    )
    Store(own_database).put(found)
    return found


def test_generate_says_which_record_is_in_force_and_why(
    dllmc: Callable, artifact: Path, record: Record
) -> None:
    found = dllmc("generate", artifact, "copy: a", "--task", "copy", "--json").json
    assert (found["record"], found["match"]) == (record.id, "BUCKET")
    same = dllmc("generate", artifact, "copy: a", "--config", CONFIG.canonical_json(), "--json")
    assert same.json["tokens"] == found["tokens"]

    ran = dllmc("generate", artifact, "copy: a", "--task", "copy")
    assert f"decoded with record {record.id}, match BUCKET: threshold 0.6, dual, blocks 32" in (
        " ".join(ran.out.split())
    )
    assert "it was timed at batch 4 and 32 new tokens" in ran.out


def test_another_task_gets_safe_with_the_reason(
    dllmc: Callable, artifact: Path, record: Record
) -> None:
    ran = dllmc("generate", artifact, "sort: b a", "--task", "sort")
    assert "decoded with SAFE, as no record applies" in ran.out
    assert f"record {record.id} was confirmed on `copy` only" in ran.out


def test_bench_times_the_record(dllmc: Callable, artifact: Path, record: Record) -> None:
    arguments = ("bench", artifact, "--rounds", 1, "--prompts", 4, "--batch", 4, "--json")
    found = dllmc(*arguments, "--task", "copy").json
    assert (found["record"], found["match"]) == (record.id, "EXACT")
    assert found["configurations"]["auto"]["config"]["commit"]["threshold"] == 0.6


def test_list_shows_what_a_record_promises(dllmc: Callable, record: Record) -> None:
    row = next(line for line in dllmc("db", "list").out.splitlines() if record.id in line)
    assert row.split()[:9] == [
        record.id,
        "copy",
        "confirmed",
        *("1", "to", "4"),
        "32",
        "1.25x",
        "0.980",
    ]
    [listed] = dllmc("db", "list", "--task", "copy", "--json").json
    assert listed == {"layer": "user", **record.to_json()}
    assert "no records" in dllmc("db", "list", "--task", "sort").out


def test_show_takes_the_beginning_of_an_id(dllmc: Callable, record: Record) -> None:
    assert dllmc("db", "show", record.id[:6], "--json").json == record.to_json()
    shown = dllmc("db", "show", record.id[:6])
    assert "threshold 0.6, dual, blocks 32" in shown.out
    assert '"reference_value": 0.99' in shown.out


def test_what_was_exported_can_be_imported(
    dllmc: Callable, record: Record, tmp_path: Path
) -> None:
    file, other = tmp_path / "records.json", tmp_path / "other"
    assert dllmc("db", "export", file, record.id[:8]).out == f"wrote 1 records to {file}\n"
    assert "1 records written" in dllmc("db", "import", file, "--db", other).out
    assert "0 records written" in dllmc("db", "import", file, "--db", other).out
    assert [entry.id for entry in Store(other).records()] == [record.id]


def test_verify_names_what_is_wrong_and_fails(
    dllmc: Callable, record: Record, own_database: Path
) -> None:
    assert "1 records, nothing wrong" in dllmc("db", "verify").out
    path = Store(own_database).path_of(record)
    path.write_text(json.dumps(record.to_json() | {"id": "0" * 24}))
    ran = dllmc("db", "verify")
    assert ran.status == 1
    assert str(path) in ran.out
    assert "1 problems" in ran.out


def test_two_records_are_compared(dllmc: Callable, own_database: Path, record: Record) -> None:
    other = record.model_copy(
        update={"key": record.key.model_copy(update={"software": {"torch": "9.9"}})}
    )
    for each in (record, other):
        Store(own_database).put(each)
    ran = dllmc("db", "diff", record.id, other.id)
    assert ran.status == 0, ran.err
    assert "key.software.torch" in ran.out
    assert "9.9" in ran.out
    found = {item["name"] for item in dllmc("db", "diff", record.id, other.id, "--json").json}
    assert "key.software.torch" in found
    assert "the same" in dllmc("db", "diff", record.id, record.id).out


def test_another_database_is_merged(
    dllmc: Callable, own_database: Path, tmp_path: Path, record: Record
) -> None:
    Store(tmp_path / "other").put(record)
    ran = dllmc("db", "merge", tmp_path / "other", "--db", tmp_path / "into")
    assert ran.status == 0, ran.err
    assert "1 records" in ran.out
    assert Store(tmp_path / "into").records() == [record]
    missing = dllmc("db", "merge", tmp_path / "nothing")
    assert missing.status == 1
    assert "there is no database at" in missing.err


def test_what_no_lookup_uses_is_pruned(
    dllmc: Callable, own_database: Path, tmp_path: Path, record: Record
) -> None:
    rejected = record.model_copy(update={"status": "rejected", "reason": "slow"})
    db = ("--db", tmp_path / "db")
    path = Store(tmp_path / "db").put(rejected)
    assert "1 files would go" in dllmc("db", "prune", "--dry-run", *db).out
    assert path.exists()
    assert "moved to" in dllmc("db", "prune", *db).out
    assert not path.exists()
    assert "nothing to prune" in dllmc("db", "prune", *db).out


def test_why_names_what_is_missing(
    dllmc: Callable, artifact: Path, own_database: Path, tmp_path: Path
) -> None:
    command = ("db", "why", artifact, "--task", "copy", "--backend", "eager")
    ran = dllmc(*command, "--db", tmp_path / "empty")
    assert ran.status == 0, ran.err
    assert "SAFE" in ran.out
    found = dllmc(*command, "--db", tmp_path / "empty", "--json").json
    assert found["config"]["commit"]["kind"] == "quota"
    assert found["reasons"]


def test_a_level_that_there_is_not_is_refused(dllmc: Callable, artifact: Path) -> None:
    ran = dllmc("generate", artifact, "copy: a b", "--allow", "familly")
    assert ran.status == 2
    assert "`allow`='familly' is no level" in ran.err


def test_records_of_one_status_are_exported(
    dllmc: Callable, tmp_path: Path, record: Record
) -> None:
    store = Store(tmp_path / "db")
    store.put(record)
    store.put(
        record.model_copy(update={"status": "rejected", "reason": "slow", "config": {"seed": 1}})
    )
    path = tmp_path / "out.json"
    ran = dllmc("db", "export", path, "--status", "confirmed", "--db", store.root)
    assert ran.status == 0, ran.err
    assert [r["id"] for r in json.loads(path.read_text())["records"]] == [record.id]
