from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from example_records import record

from dllmc.spec import HardwareKey, TuningDatabaseError
from dllmc.tuning_db import Store, Unavailable, default_root, layers, shipped
from dllmc.tuning_db._files import short_id, write_json

if TYPE_CHECKING:
    from collections.abc import Callable


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_a_record_has_its_own_file_under_hardware_and_weights(tmp_path: Path) -> None:
    path = Store(tmp_path).put(record())
    assert path.relative_to(tmp_path).parts == (
        "v2",
        f"cpu-avx2-generic-cpu-2-{short_id(record().key.environment())[:8]}",
        "a1a1a1a1a1a1a1a1",
        f"{record().id}.json",
    )
    assert json.loads((path.parent.parent / "environment.json").read_text()) == (
        record().key.environment()
    )
    assert Store(tmp_path).records() == [record()]
    assert json.loads((tmp_path / "manifest.json").read_text())["version"] == 1


def test_reading_creates_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "absent")
    assert store.records() == []
    assert store.problems() == []
    assert not (tmp_path / "absent").exists()


def test_the_same_key_and_configuration_replace_the_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(record(margin=0.05))
    assert store.records()[0].margin == 0.05
    store.put(record(margin=0.01))
    assert [item.margin for item in store.records()] == [0.01]


def test_hardware_that_names_a_path_stays_inside_the_database(tmp_path: Path) -> None:
    hardware = HardwareKey(kind="cpu", name="x", architecture="../../../up", units=1)
    path = Store(tmp_path / "db").put(record(hardware=hardware))
    assert path.resolve().is_relative_to(tmp_path / "db")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "has `schema_version`=None"),
        (json.dumps(record().to_json() | {"id": "f" * 24}), "hash to"),
        ("\udcff", "is not JSON"),
    ],
)
def test_a_damaged_file_among_good_ones_is_a_miss_with_a_reason(
    tmp_path: Path, text: str, problem: str
) -> None:
    store = Store(tmp_path)
    good = store.put(record())
    bad = good.with_name("0" * 24 + ".json")
    bad.write_bytes(text.encode(errors="surrogateescape"))
    assert store.records() == [record()]
    assert [line for line in store.problems() if str(bad) in line and problem in line]


def test_a_renamed_record_is_reported_and_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.put(record())
    path.rename(path.with_name("1" * 24 + ".json"))
    assert store.records() == []
    assert "not the one that its name says" in store.problems()[0]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.put(record())
    assert len(store.records()) == 1
    write_json(path, {"broken": True})
    assert store.records() == []


@pytest.mark.parametrize(
    "act",
    [
        lambda opened: Store(opened.root),
        lambda opened: layers(db=opened.root),
        lambda opened: opened.put(record(task="sort")),
    ],
    ids=["open", "layers", "write"],
)
def test_a_newer_database_is_refused_and_left_as_it_is(
    tmp_path: Path, act: Callable[[Store], object]
) -> None:
    opened = Store(tmp_path)
    opened.put(record())
    (tmp_path / "manifest.json").write_text('{"format": "dllmc tuning database", "version": 2}')
    before = contents(tmp_path)
    with pytest.raises(TuningDatabaseError) as caught:
        act(opened)
    assert str(tmp_path) in str(caught.value)
    assert "is of version 2 and this dllmc knows version 1; update dllmc" in str(caught.value)
    assert contents(tmp_path) == before


def test_a_damaged_manifest_is_reported_and_renewed_by_the_next_write(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(record())
    (tmp_path / "manifest.json").write_text("???")
    assert store.records() == [record()]
    assert "manifest.json is damaged" in store.problems()[0]
    store.put(record(task="sort"))
    assert store.problems() == []


def test_a_read_only_database_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(TuningDatabaseError, match="is read-only; name another with --db"):
        Store(tmp_path / "db", read_only=True).put(record())
    assert not (tmp_path / "db").exists()


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.put(record(margin=0.05))
    before = contents(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TuningDatabaseError, match="No space left on device"):
        store.put(record(margin=0.01))
    assert contents(tmp_path) == before


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    writer = textwrap.dedent("""
        import sys
        from pathlib import Path
        from dllmc.tuning_db._files import short_id, write_json
        path = Path(sys.argv[1])
        print("ready", flush=True)
        for size in range(10**9):
            write_json(path, {"size": size % 50, "values": [size % 50] * (size % 50 * 200)})
    """)
    path = tmp_path / "busy.json"
    command = [sys.executable, "-c", writer, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout is not None
        process.stdout.readline()
        seen = set()
        while len(seen) < 20:
            if path.exists():
                value = json.loads(path.read_text())
                assert value["values"] == [value["size"]] * (value["size"] * 200)
                seen.add(value["size"])
        process.kill()
    json.loads(path.read_text())


def test_the_default_root_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLLMC_TUNING_DB", str(tmp_path / "named"))
    assert default_root() == tmp_path / "named"
    monkeypatch.delenv("DLLMC_TUNING_DB")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_root() == tmp_path / "data" / "dllmc" / "tuning"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_root() == Path.home() / ".local" / "share" / "dllmc" / "tuning"


def test_layers_come_in_their_order_and_none_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLLMC_TUNING_DB", str(tmp_path / "user"))
    monkeypatch.setenv("DLLMC_TEAM_DB", str(tmp_path))
    found = layers(tmp_path / "artifact", tmp_path / "given")
    names = ["artifact", "explicit", "user", "team", "shipped"]
    assert [store.name for store in found] == names
    assert all(store.read_only for store in found if isinstance(store, Store))
    assert [store.name for store in layers()] == ["user", "team", "shipped"]


def test_a_database_that_is_given_and_the_users_is_looked_in_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLLMC_TUNING_DB", str(tmp_path / "user"))
    assert [store.name for store in layers(db=tmp_path / "user")] == ["explicit", "shipped"]


@pytest.mark.parametrize("version", [None, 99])
def test_a_team_database_that_cannot_be_read_is_a_reason_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int | None
) -> None:
    team = tmp_path / "team"
    monkeypatch.setenv("DLLMC_TEAM_DB", str(team))
    if version is not None:
        write_json(team / "manifest.json", {"format": "x", "version": version})
    [found] = [layer for layer in layers() if layer.name == "team"]
    assert isinstance(found, Unavailable)
    assert str(team) in found.problem
    assert found.records() == []


def test_what_is_shipped_is_sound() -> None:
    assert shipped().problems() == []
