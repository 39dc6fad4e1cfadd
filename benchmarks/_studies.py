"""Tuning jobs by the thousand, where nothing is killed."""

from __future__ import annotations

import functools
import os

import optuna

from dllmc.autotune import study


def in_memory() -> None:
    """Studies in memory, and files without waiting for the disk, in this process."""
    study._open = functools.lru_cache(maxsize=1)(lambda _: optuna.storages.InMemoryStorage())
    os.fsync = lambda _: None  # type: ignore[assignment]
