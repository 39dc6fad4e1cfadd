"""Records between databases, and what people ask of a database: list, show, import, export."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dllmc.spec import TuningDatabaseError, nearest
from dllmc.tuning_db._files import write_json
from dllmc.tuning_db.evidence import evidence_problems
from dllmc.tuning_db.record import Record
from dllmc.tuning_db.store import FORMAT, VERSION, Entry, Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dllmc.tuning_db.record import Status


@dataclass(frozen=True, slots=True)
class Listed:
    """A record and where it stands.

    Attributes:
        record: The record.
        layer: Name of its database.
        path: Its file.
    """

    record: Record
    layer: str
    path: Path


@dataclass(slots=True)
class Imported:
    """What an import did.

    Attributes:
        written: Ids of records that were new, or newer than the ones there.
        kept: Ids of records of which this database has the same or a newer one.
        skipped: What could not be imported and why, one line each.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def list_records(
    stores: Sequence[Store], *, task: str | None = None, status: Status | None = None
) -> list[Listed]:
    """The valid records of `stores`, layer by layer and newest first.

    Args:
        stores: Databases.
        task: Only records of this task.
        status: Only records of this status.
    """
    found = []
    for store in stores:
        records = [
            record
            for record in store.records()
            if task in (None, record.key.workload.task) and status in (None, record.status)
        ]
        records.sort(key=lambda record: record.provenance.started, reverse=True)
        found += [Listed(record, store.name, store.path_of(record)) for record in records]
    return found


def find_record(stores: Sequence[Store], record_id: str) -> Listed:
    """The record whose id begins with `record_id`; the first layer that has it wins.

    Raises:
        TuningDatabaseError: There is none, or there are several.
    """
    listed = list_records(stores)
    found = {item.record.id: item for item in reversed(listed) if record_id}
    found = {key: item for key, item in found.items() if key.startswith(record_id)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise TuningDatabaseError(
            f"`{record_id}` begins {len(found)} ids: {', '.join(sorted(found))}; write more of it"
        )
    hint = nearest(record_id, {item.record.id for item in listed}) if listed else "there are none"
    raise TuningDatabaseError(f"there is no record `{record_id}`; {hint}")


def export_records(records: Iterable[Record], path: Path | str) -> int:
    """Write `records` into one JSON file and return how many; evidence stays where it is.

    Raises:
        TuningDatabaseError: The file exists or cannot be written.
    """
    target, values = Path(path), [record.to_json() for record in records]
    if target.exists():
        raise TuningDatabaseError(f"{target} exists; delete it or name another file")
    try:
        write_json(target, {"format": FORMAT, "version": VERSION, "records": values})
    except OSError as error:
        raise TuningDatabaseError(f"cannot write {target} ({error.strerror})") from error
    return len(values)


def import_records(store: Store, path: Path | str) -> Imported:
    """Take the records of an exported file, of one record's file, or of a database's folder.

    Of two records of the same id the one of the newer job is kept.

    Raises:
        TuningDatabaseError: The source cannot be read or is of a newer version, or this database
            cannot be written. In the first two cases nothing is touched.
    """
    done = Imported()
    present = {record.id: record for record in store.records()}
    for entry in _source(Path(path)):
        record = entry.record
        if record is None:
            done.skipped.append(f"{entry.path} {entry.problem}")
        elif record.id in present and not _newer(record, present[record.id]):
            done.kept.append(record.id)
        else:
            store.put(record)
            present[record.id] = record
            done.written.append(record.id)
    return done


def verify(store: Store) -> list[str]:
    """Everything in a database that lookups skip or that contradicts itself, one line each."""
    found = store.problems() + evidence_problems(store)
    for item in list_records([store]):
        record, workload = item.record, item.record.key.workload
        if workload.batch not in record.applies_to.batch:
            found.append(f"{item.path} was measured outside its own range of batches")
        if workload.max_new_tokens not in record.applies_to.max_new_tokens:
            found.append(f"{item.path} was measured outside its own range of lengths")
        quality = record.quality
        if record.status == "confirmed" and quality is not None:
            if quality.lower_bound <= -quality.margin:
                found.append(
                    f"{item.path} is confirmed, but its lower bound {quality.lower_bound:.4f} "
                    f"is not above -{quality.margin:g}"
                )
            if abs(quality.value - quality.reference_value - quality.difference) > 1e-9:
                found.append(f"{item.path} has a difference that its values do not give")
    return found


def _newer(record: Record, other: Record) -> bool:
    return record.provenance.started > other.provenance.started


def _source(path: Path) -> list[Entry]:
    if path.is_dir():
        return list(Store(path, name="source", read_only=True).entries())
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TuningDatabaseError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise TuningDatabaseError(f"{path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise TuningDatabaseError(f"{path} holds no records; give what `dllmc db export` wrote")
    if value.get("format") != FORMAT:
        return [_entry(path, value)]
    version, records = value.get("version"), value.get("records")
    if version != VERSION:
        raise TuningDatabaseError(
            f"{path} is of version {version!r} and this dllmc knows version {VERSION}; update "
            "dllmc"
        )
    if not isinstance(records, list):
        raise TuningDatabaseError(f"{path} has no list `records`; give an exported file")
    return [_entry(path, item) for item in records]


def _entry(path: Path, value: object) -> Entry:
    try:
        return Entry(path, Record.from_json(value), None)
    except TuningDatabaseError as error:
        return Entry(path, None, str(error))
