"""Canonical JSON, hashes of it, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# 24 hexadecimal digits are 96 bits: two of a billion records collide once in 10^11 databases.
_ID_LENGTH = 24


def canonical_json(value: object) -> str:
    """The same text for the same value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def short_id(value: object) -> str:
    """The head of `digest`, as file name."""
    return digest(value)[:_ID_LENGTH]


def answer_digest(tokens: Sequence[int]) -> str:
    """Head of the hash of a response's token ids: equal answers have equal ones."""
    return digest(list(tokens))[:8]


def folder_name(text: str) -> str:
    """`text` as one path component, whatever it holds."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip(".") or "_"


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write `value` to `path` such that a reader sees the old file or the new one, whole.

    Survives the death of the process and of the machine: file and folder are synchronised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, sort_keys=True, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp lets only the owner read
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    _synchronise_folder(path.parent)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep others out who unite what they know with the file `path` and write it.

    Readers are not kept out, and the file is whole at any time without it. Where files cannot be
    locked, two who write at once may lose what one of them has learnt, and learn it again.
    """
    try:
        import fcntl

        path.parent.mkdir(parents=True, exist_ok=True)
        # One for the folder: a lock per file would double their number.
        lock = (path.parent / ".lock").open("w")
    except (ImportError, OSError):
        yield
        return
    with lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _synchronise_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows opens no folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
