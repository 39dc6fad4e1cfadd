"""Several databases into one, and what is out of date out of the way."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dllmc.spec import TuningDatabaseError
from dllmc.tuning_db.evidence import (
    EvidenceStore,
    QualityEvidence,
    SpeedEvidence,
    read_evidence,
)
from dllmc.tuning_db.plan_speed import PlanSpeeds, PlanSpeedStore
from dllmc.tuning_db.store import EVIDENCE, Store
from dllmc.tuning_db.transfer import Imported, import_records
from dllmc.tuning_db.verdicts import VerdictStore

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.tuning_db.record import Record

ASIDE = "pruned"
"""Folder under a database's root where what was pruned goes."""


@dataclass(slots=True)
class Merged:
    """What a merge did.

    Attributes:
        records: Written, kept and skipped records.
        outcomes: Answers that were new.
        pairs: Timings that were new.
        plans: Latencies of plans that were new.
        verdicts: Jobs whose verdicts were new.
    """

    records: Imported
    outcomes: int = 0
    pairs: int = 0
    plans: int = 0
    verdicts: int = 0


def merge(store: Store, source: Store) -> Merged:
    """Take everything of `source` into `store`; nothing of either is lost.

    Of two records of the same id the newer job's is kept; answers of a prompt that both know stay
    as they are; timings are united. Doing it twice, or two at once, changes nothing more.

    Raises:
        TuningDatabaseError: One of them is the other, or `store` cannot be written.
    """
    if store.root.resolve() == source.root.resolve():
        raise TuningDatabaseError(f"{store.root} cannot be merged into itself; name another")
    done = Merged(import_records(store, source.root))
    evidence = EvidenceStore(store)
    for path in _files(source, "quality"):
        quality = read_evidence(path, QualityEvidence)
        if quality is not None:
            quality = EvidenceStore(source).quality(quality.key)
            known = evidence.quality(quality.key)
            new = len(quality.outcomes.keys() - known.outcomes.keys())
            if new:
                known.absorb(quality)
                evidence.save_quality(known)
                done.outcomes += new
    for path in _files(source, "speed"):
        speed = read_evidence(path, SpeedEvidence)
        if speed is not None:
            speed = EvidenceStore(source).speed(speed.key)
            ours = evidence.speed(speed.key)
            before = len(ours.pairs)
            ours.absorb(speed)
            if len(ours.pairs) > before:
                evidence.save_speed(ours)
                done.pairs += len(ours.pairs) - before
    _merge_plans(store, source, done)
    _merge_verdicts(store, source, done)
    return done


def _merge_plans(store: Store, source: Store, done: Merged) -> None:
    plans = PlanSpeedStore(store)
    for path in _files(source, "plans"):
        with contextlib.suppress(OSError, ValueError):
            theirs = PlanSpeeds.model_validate_json(path.read_text(encoding="utf-8"))
            ours = plans.load(theirs.key)
            new = theirs.plans.keys() - ours.plans.keys()
            if new or theirs.hosts.keys() - ours.hosts.keys():
                plans.save(
                    ours.model_copy(
                        update={
                            "plans": {**theirs.plans, **ours.plans},
                            "hosts": {**theirs.hosts, **ours.hosts},
                        }
                    )
                )
                done.plans += len(new)


def _merge_verdicts(store: Store, source: Store, done: Merged) -> None:
    ours, theirs = VerdictStore(store), VerdictStore(source)
    for key in theirs.every_key():
        known = {verdict.study for verdict in ours.load(key)}
        found = theirs.load(key)
        for study in sorted({verdict.study for verdict in found} - known):
            ours.save(key, study, [verdict for verdict in found if verdict.study == study])
            done.verdicts += 1


def _files(store: Store, kind: str) -> list[Path]:
    """Evidence files of `kind`, those of earlier versions included."""
    roots = (store.folder, *store.earlier)
    return [p for root in roots for p in sorted((root / EVIDENCE / kind).rglob("*.json"))]


@dataclass(slots=True)
class Pruned:
    """What pruning found.

    Attributes:
        files: Moved aside or deleted, with why.
        folder: Where they are now; None where they were deleted, or are still where they were.
    """

    files: list[tuple[Path, str]] = field(default_factory=list)
    folder: Path | None = None


def prune(store: Store, *, delete: bool = False, dry_run: bool = False) -> Pruned:
    """Take out what no lookup uses: damaged files, rejected records, and records of old software.

    A record of old software goes only where the same circumstances have a confirmed record of
    newer software. Evidence stays: answers do not go out of date.

    Args:
        store: The database.
        delete: Delete instead of moving into the folder `pruned` of the database.
        dry_run: Only say what would go.

    Raises:
        TuningDatabaseError: The database is read-only or cannot be written.
    """
    if store.read_only:
        raise TuningDatabaseError(f"the {store.name} database {store.root} is read-only")
    found = Pruned()
    entries = list(store.entries())
    confirmed = [e.record for e in entries if e.record and e.record.status == "confirmed"]
    for entry in entries:
        reason = _why(entry.record, entry.problem, confirmed)
        if reason is not None:
            found.files.append((entry.path, reason))
    if dry_run or not found.files:
        return found
    try:
        for path, _ in found.files:
            if delete:
                path.unlink(missing_ok=True)
                continue
            found.folder = store.root / ASIDE
            target = found.folder / path.relative_to(store.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    except OSError as error:
        raise TuningDatabaseError(f"cannot prune {store.root} ({error.strerror})") from error
    return found


def _why(record: Record | None, problem: str | None, confirmed: list[Record]) -> str | None:
    if record is None:
        return problem
    if record.status in ("rejected", "superseded"):
        return f"is {record.status}"
    for other in confirmed:
        newer = other.provenance.started > record.provenance.started
        if (
            newer
            and other.key.software != record.key.software
            and _same_but_software(record, other)
        ):
            return f"is of other software than record {other.id}, which is newer"
    return None


def _same_but_software(one: Record, other: Record) -> bool:
    """Whether two records are of the same circumstances, whatever the versions."""
    keys = []
    for record in (one, other):
        key = record.key.identity()
        del key["software"]
        for name in ("graph_sha256", "passes_sha256"):
            key["model"].pop(name, None)
        keys.append((key, record.applies_to))
    return keys[0] == keys[1]
