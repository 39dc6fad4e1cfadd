"""What held-out prompts said of configurations: quality evidence, independent of the machine.

    <root>/<version>/evidence/verdicts/<weights, 16 digits>/<id of the key>/<study>.json

One file per job, so that jobs at the same time do not lose each other's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from dllmc.tuning_db._files import short_id
from dllmc.tuning_db.record import Config, Part
from dllmc.tuning_db.store import EVIDENCE, Store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class VerdictKey(Part):
    """What answers depend on, besides the configuration."""

    weights_sha256: str
    dtype: str
    numerics: str
    task: str
    max_new_tokens: int


class StoredVerdict(Part):
    """A test of one configuration against the reference, on prompts that nothing had seen.

    Attributes:
        config: The configuration, every field written out.
        seed: Of the prompts: they are the first `n` of the task's confirm split.
        study: The job. Its tests were a fixed sequence that ended at the first failure, or, of a
            front, each at its share of the error: so the probability that any that passed breaks
            its margin is 5 % at most, whichever of them is chosen later.
        margin: Loss that was tested for.
        n: Prompts.
        wins: Of these, right only with the configuration.
        losses: Of these, right only with the reference.
        reference_right: Of these, right with the reference.
        lower_bound: One-sided lower confidence bound of the difference: 95 %, and for all of a
            front together where `test` says so.
        p_value: Of a loss of at least the margin.
        passed: Whether the loss is under the margin beyond doubt.
        test: Name of the test.
        metric: How answers were judged.
        split_sha256: Of the ids of the prompts.
        outcomes_sha256: Of the per-prompt outcomes of both.
        started: Start of the job, ISO 8601 in UTC.
    """

    config: Config
    seed: int
    study: str
    margin: float = Field(gt=0, lt=1)
    n: int = Field(gt=0)
    wins: int = Field(ge=0)
    losses: int = Field(ge=0)
    reference_right: int = Field(ge=0)
    lower_bound: float = Field(ge=-1, le=1)
    p_value: float = Field(ge=0, le=1)
    passed: bool
    test: str
    metric: str
    split_sha256: str
    outcomes_sha256: str
    started: str


class _File(Part):
    schema_version: Literal[1] = 1
    key: VerdictKey
    verdicts: list[StoredVerdict] = Field(default_factory=list)


class VerdictStore:
    """The verdicts in a tuning database; damaged files count as absent.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, key: VerdictKey) -> list[StoredVerdict]:
        """Every verdict under `key`, oldest job first."""
        found: list[StoredVerdict] = []
        for path in sorted(self.folder_of(key).glob("*.json")):
            file = _read(path)
            if file is not None and file.key == key:
                found += file.verdicts
        return sorted(found, key=lambda verdict: verdict.started)

    def every_key(self) -> list[VerdictKey]:
        """Every key that has verdicts."""
        found: dict[str, VerdictKey] = {}
        for path in sorted((self._store.folder / EVIDENCE / "verdicts").rglob("*.json")):
            file = _read(path)
            if file is not None:
                found[short_id(file.key.model_dump(mode="json"))] = file.key
        return list(found.values())

    def save(self, key: VerdictKey, study: str, verdicts: Sequence[StoredVerdict]) -> None:
        """Write the verdicts of a job, instead of what it wrote before.

        Raises:
            TuningDatabaseError: The database cannot be written.
        """
        path = self.folder_of(key) / f"{short_id(study)}.json"
        file = _File(key=key, verdicts=list(verdicts))
        self._store.write(path, file.model_dump(mode="json"))

    def folder_of(self, key: VerdictKey) -> Path:
        """The folder of `key`, whether it is there or not."""
        folder = self._store.folder / EVIDENCE / "verdicts" / key.weights_sha256[:16]
        return folder / short_id(key.model_dump(mode="json"))


def _read(path: Path) -> _File | None:
    try:
        return _File.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, ValidationError):
        return None
