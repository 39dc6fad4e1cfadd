"""A folder of records: one file each, written whole, and no locks.

    <root>/manifest.json                                     format and version of the root
    <root>/v2/<environment>/environment.json                 what the folder's name stands for
    <root>/v2/<environment>/<weights, 16 digits>/<id>.json   records
    <root>/v2/evidence/...                                   see `dllmc.tuning_db.evidence`
    <root>/v1/...                                            earlier files: read, never changed

An environment is hardware, software and way of execution: a new one is a new folder, and what an
earlier dllmc wrote stays where that one finds it. A record that cannot be read is a miss with a
reason, never an error.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dllmc.spec import TuningDatabaseError
from dllmc.tuning_db._files import folder_name, short_id, write_json
from dllmc.tuning_db.record import Key, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = "dllmc tuning database"
VERSION = 1
GENERATION = 2
EARLIER = (1,)
EVIDENCE = "evidence"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a database.

    Attributes:
        path: Where it is.
        record: What it holds; None where it holds no valid record.
        problem: Why it is skipped; None for a valid record.
    """

    path: Path
    record: Record | None
    problem: str | None


class Store:
    """A tuning database in a folder; opening and reading never create it.

    Args:
        root: The folder.
        name: What a match calls this layer.
        read_only: Refuse to write.

    Raises:
        TuningDatabaseError: It was written by a newer version; nothing is touched.
    """

    def __init__(self, root: Path | str, *, name: str = "user", read_only: bool = False) -> None:
        self.root = Path(root)
        self.name = name
        self.read_only = read_only
        self._read: dict[Path, tuple[tuple[int, int], Entry]] = {}
        self._refuse_newer()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r}, name={self.name!r})"

    @property
    def folder(self) -> Path:
        """Where this version's files are."""
        return self.root / f"v{GENERATION}"

    @property
    def earlier(self) -> list[Path]:
        """Where earlier versions' files are, the newest first."""
        return [self.root / f"v{version}" for version in EARLIER]

    def path_of(self, record: Record) -> Path:
        """The file of `record`, whether it is there or not."""
        return self._folder_of(record.key) / f"{record.id}.json"

    def put(self, record: Record) -> Path:
        """Write `record`; one of the same key and configuration is replaced.

        Raises:
            TuningDatabaseError: The database is read-only, of a newer version, or cannot be
                written.
        """
        path = self.path_of(record)
        self.write(path, record.to_json())
        described = path.parent.parent / "environment.json"
        if not described.exists():
            self.write(described, record.key.environment())
        return path

    def require_writable(self) -> None:
        """Go on only if the database may be written.

        Raises:
            TuningDatabaseError: It was opened to be read only.
        """
        if self.read_only:
            raise TuningDatabaseError(
                f"the {self.name} database {self.root} is read-only; name another with --db"
            )

    def write(self, path: Path, value: dict[str, object]) -> None:
        """Write a file of this database atomically.

        Raises:
            TuningDatabaseError: As for `put`.
        """
        self.require_writable()
        self._refuse_newer()
        try:
            if self._manifest_problem() is not None:
                write_json(self.root / "manifest.json", {"format": FORMAT, "version": VERSION})
            write_json(path, value)
        except OSError as error:
            raise TuningDatabaseError(
                f"cannot write {path} ({error.strerror}); nothing was changed; free space, "
                "correct its permissions or name another database with --db"
            ) from error

    def entries(self) -> Iterator[Entry]:
        """Every record file, in order of paths; damaged ones with what is wrong.

        Of a record that this version has written again, what an earlier one wrote is left out.
        """
        seen = set()
        for folder in (self.folder, *self.earlier):
            # Evidence lies deeper.
            for path in sorted(folder.glob("*/*/*.json")):
                entry = self._entry(path)
                if entry.record is not None:
                    if entry.record.id in seen:
                        continue
                    seen.add(entry.record.id)
                yield entry

    def records(self) -> list[Record]:
        """Every valid record; see `verify` for what is skipped."""
        return [entry.record for entry in self.entries() if entry.record is not None]

    def problems(self) -> list[str]:
        """What is wrong with the database, one line each."""
        found = []
        problem = self._manifest_problem()
        if self.root.exists() and problem is not None:
            found.append(f"{self.root / 'manifest.json'} {problem}")
        for entry in self.entries():
            if entry.problem is not None:
                found.append(f"{entry.path} {entry.problem}")
            elif (
                entry.record is not None
                and entry.path.is_relative_to(self.folder)
                and entry.path != self.path_of(entry.record)
            ):
                found.append(f"{entry.path} should be {self.path_of(entry.record)}")
        return found

    def _entry(self, path: Path) -> Entry:
        """As `read_entry`; a file that has not changed is not read again."""
        try:
            stat = path.stat()
        except OSError as error:
            return Entry(path, None, f"cannot be read ({error.strerror})")
        version = (stat.st_mtime_ns, stat.st_ino)
        if path not in self._read or self._read[path][0] != version:
            self._read[path] = (version, read_entry(path))
        return self._read[path][1]

    def _folder_of(self, key: Key) -> Path:
        environment = f"{folder_name(key.hardware.id)}-{short_id(key.environment())[:8]}"
        return self.folder / environment / key.model.weights_sha256[:16]

    def _version(self) -> int | None:
        """What the manifest says; None where it is missing or damaged."""
        try:
            manifest = json.loads((self.root / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        version = manifest.get("version") if isinstance(manifest, dict) else None
        return version if isinstance(version, int) else None

    def _manifest_problem(self) -> str | None:
        if self._version() == VERSION:
            return None
        if (self.root / "manifest.json").exists():
            return "is damaged; the next record written renews it"
        return "is missing; the next record written makes it"

    def _refuse_newer(self) -> None:
        version = self._version()
        if version is not None and version > VERSION:
            raise TuningDatabaseError(
                f"the tuning database {self.root} is of version {version} and this dllmc knows "
                f"version {VERSION}; update dllmc, or name another database with --db or "
                "DLLMC_TUNING_DB"
            )


def read_entry(path: Path) -> Entry:
    """The record in a file, or why there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return Entry(path, None, f"cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        return Entry(path, None, f"is not JSON ({error})")
    try:
        record = Record.from_json(value)
    except TuningDatabaseError as error:
        return Entry(path, None, str(error))
    if path.stem != record.id:
        return Entry(path, None, f"holds record {record.id}, not the one that its name says")
    return Entry(path, record, None)


def default_root() -> Path:
    """The user's database: `DLLMC_TUNING_DB`, else a folder of the platform's user data."""
    named = os.environ.get("DLLMC_TUNING_DB")
    if named:
        return Path(named).expanduser()
    if os.name == "nt":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "dllmc" / "tuning"


def shipped() -> Store:
    """The records that come with dllmc."""
    return Store(Path(__file__).parent / "records", name="shipped", read_only=True)


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A layer that cannot be read now.

    Attributes:
        name: Of the layer.
        problem: Why.
    """

    name: str
    problem: str

    def records(self) -> list[Record]:
        """None."""
        return []


def layers(
    artifact: Path | None = None, db: Path | str | Store | None = None
) -> list[Store | Unavailable]:
    """The databases to look in, first wins among equals; none of them is written.

    They are: what the artifact carries, `db` if it is given, the user's, the team's if
    `DLLMC_TEAM_DB` names one, and what comes with dllmc.

    Args:
        artifact: Folder of the records inside an artifact, if there are any.
        db: A database named explicitly.

    Raises:
        TuningDatabaseError: One of them is of a newer version, but for the team's, which is then
            unavailable.
    """
    found: list[Store | Unavailable] = []
    if artifact is not None:
        found.append(Store(artifact, name="artifact", read_only=True))
    if db is not None:
        root = db.root if isinstance(db, Store) else Path(db)
        found.append(Store(root, name="explicit", read_only=True))
    if db is None or root != default_root():
        found.append(Store(default_root(), read_only=True))
    team = os.environ.get("DLLMC_TEAM_DB")
    if team:
        found.append(_team(Path(team).expanduser()))
    return [*found, shipped()]


def _team(root: Path) -> Store | Unavailable:
    if not root.is_dir():
        return Unavailable("team", f"the team database {root} (DLLMC_TEAM_DB) is not there")
    try:
        return Store(root, name="team", read_only=True)
    except TuningDatabaseError as error:
        return Unavailable("team", str(error))
