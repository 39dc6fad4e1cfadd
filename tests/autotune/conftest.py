from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import optuna
import pytest

from dllmc.autotune import study

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies in memory, and files without waiting for the disk: a job takes a third of the time.

    Those in files are for `test_study.py` and `test_resume.py`.
    """
    opened = functools.cache(lambda _: optuna.storages.InMemoryStorage())
    monkeypatch.setattr(study, "_open", opened)
    monkeypatch.setattr(os, "fsync", lambda _: None)
