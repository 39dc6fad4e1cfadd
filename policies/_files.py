"""Files that policies read: once, and again when they were written anew."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def version(path: str) -> tuple[int, int, int] | None:
    """Another one whenever the file at `path` was written; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_once(read: Callable[..., T]) -> Callable[..., T]:
    """`read`, whose first argument is a path, called anew only if the file is another."""

    @functools.lru_cache(maxsize=16)
    def kept(of: object, path: str, *others: Any) -> T:
        del of
        return read(path, *others)

    @functools.wraps(read)
    def current(path: str, *others: Any) -> T:
        return kept(version(path), path, *others)

    return current
