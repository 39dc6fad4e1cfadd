"""Which tuning record decides how to decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dllmc.policies.config import SAFE, DecodingConfig
from dllmc.spec import ConfigError, TuningDatabaseError
from dllmc.tuning_db import Key, Layer, ModelKey, Record, Workload, layers, lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.runtime.engine import Engine


@dataclass(frozen=True, slots=True)
class Choice:
    """How to decode, and on whose word.

    Attributes:
        config: To decode with.
        record: Id of the record that it is from, or None.
        match: Level of the match, or `GIVEN` for a configuration that the caller gave.
        reasons: Why the level is not higher.
    """

    config: DecodingConfig
    record: str | None
    match: str
    reasons: Sequence[str]


class PackagedRecords:
    """The records that a package carries, as a layer of the lookup."""

    name = "artifact"

    def __init__(self, records: Sequence[dict[str, object]]) -> None:
        self._records: list[Record] = []
        self.problems: list[str] = []
        for value in records:
            try:
                self._records.append(Record.from_json(value))
            except TuningDatabaseError as error:
                self.problems.append(f"a record of the artifact {error}")

    def records(self) -> list[Record]:
        return self._records


def key_of(engine: Engine, *, task: str | None, batch: int, max_new_tokens: int) -> Key:
    """The circumstances under which `engine` is asked to decode."""
    model = ModelKey(
        name=engine.name,
        family=engine.spec.family,
        weights_sha256=engine.weights_sha256,
        dtype=engine.dtype,
    )
    return Key(
        model=model,
        hardware=engine.hardware,
        software=engine.software,
        execution=engine.execution,
        numerics=engine.numerics,
        workload=Workload(task=task, max_new_tokens=max_new_tokens, batch=batch),
    )


def choose_record(engine: Engine, *, task: str | None, batch: int, max_new_tokens: int) -> Choice:
    """The configuration of the record that fits best, or `SAFE`.

    Raises:
        TuningDatabaseError: The database is of a newer version.
    """
    packaged = PackagedRecords(engine.package.records)
    stores: list[Layer] = [packaged, *layers(db=engine.database)]
    key = key_of(engine, task=task, batch=batch, max_new_tokens=max_new_tokens)
    match = lookup(key, stores)
    reasons = [*match.reasons, *packaged.problems]
    if match.config is None or match.record is None:
        return Choice(SAFE, None, match.level.name, reasons)
    try:
        config = DecodingConfig(**match.config)
        config.check(max_new_tokens)
    except ConfigError as error:
        reason = f"record {match.record.id} cannot be applied by this version: {error}"
        return Choice(SAFE, None, "SAFE", [reason, *reasons])
    return Choice(config, match.record.id, match.level.name, reasons)
