"""Which tuning record decides how to decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from dllmc.policies.config import SAFE, DecodingConfig
from dllmc.runtime.neutral import apply_neutral, unsaid
from dllmc.runtime.smoke import smoke_key, smoke_test
from dllmc.spec import ConfigError, TuningDatabaseError, UsageError, nearest
from dllmc.tuning_db import (
    Key,
    Level,
    Match,
    ModelKey,
    Objective,
    Record,
    Unavailable,
    Workload,
    layers,
    lookup,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dllmc.runtime.engine import Engine
    from dllmc.runtime.smoke import SmokeKey
    from dllmc.tuning_db.lookup import Layer


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


ALLOWED: Final = {"other-task": Level.OTHER_TASK, "family": Level.FAMILY}
"""Levels that are applied only where they are asked for, by the words that ask."""


def read_levels(words: Sequence[str]) -> list[Level]:
    """The levels that `words` allow.

    Raises:
        UsageError: A word is not one of `ALLOWED`.
    """
    for word in words:
        if word not in ALLOWED:
            raise UsageError(f"`allow`={word!r} is no level; {nearest(word, ALLOWED)}")
    return [ALLOWED[word] for word in words]


def read_objective(word: str) -> Objective:
    """The objective called `word`.

    Raises:
        UsageError: There is none.
    """
    for known in get_args(Objective):
        if word == known:
            return cast("Objective", known)
    raise UsageError(f"`objective`={word!r} is unknown; {nearest(word, get_args(Objective))}")


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


def key_of(
    engine: Engine,
    *,
    task: str | None,
    batch: int,
    max_new_tokens: int,
    objective: Objective = "throughput",
) -> Key:
    """The circumstances under which `engine` is asked to decode."""
    model = ModelKey(
        name=engine.name,
        family=engine.spec.family,
        weights_sha256=engine.weights_sha256,
        dtype=engine.dtype,
        graph_sha256=engine.package.graph_sha256,
        passes_sha256=engine.package.passes_sha256,
    )
    return Key(
        model=model,
        hardware=engine.hardware,
        software=engine.software,
        execution=engine.execution,
        numerics=engine.numerics,
        workload=Workload(
            task=task, max_new_tokens=max_new_tokens, batch=batch, objective=objective
        ),
    )


def choose(
    engine: Engine,
    config: DecodingConfig | Mapping[str, Any] | str,
    **circumstances: Any,
) -> Choice:
    """What `config` says, or where it is `auto` what `choose_record` finds.

    Raises:
        ConfigError: The configuration is invalid.
    """
    if isinstance(config, Mapping):
        config = DecodingConfig(**config)
    elif isinstance(config, str) and config != "auto":
        config = DecodingConfig.from_json(config)
    if isinstance(config, DecodingConfig):
        return Choice(config, None, "GIVEN", ())
    return choose_record(engine, **circumstances)


class _Without:
    """A layer without some records.

    Args:
        layer: It.
        without: Keys of these, see `smoke_key`.
    """

    def __init__(self, layer: Layer, without: Collection[SmokeKey]) -> None:
        self.name, self._layer, self._without = layer.name, layer, without

    def records(self) -> list[Record]:
        return [r for r in self._layer.records() if smoke_key(r) not in self._without]


def _tested(
    engine: Engine, key: Key, layers: Sequence[Layer], levels: Sequence[Level]
) -> tuple[Match, list[str]]:
    """The best match whose answers are what they were, as far as smoke prompts show, and why."""
    failed: dict[SmokeKey, str] = {}
    while True:
        match = lookup(key, [_Without(layer, failed) for layer in layers], allow=levels)
        if match.level is not Level.STALE_SPEED or match.record is None:
            return match, list(failed.values())
        result = smoke_test(engine, match.record)
        if result.passed:
            return match, [str(result), *failed.values()]
        failed[smoke_key(match.record)] = f"record {match.record.id} is not applied: {result}"


def choose_record(
    engine: Engine,
    *,
    task: str | None,
    batch: int,
    max_new_tokens: int,
    allow: Sequence[str] = (),
    objective: Objective = "throughput",
    strict: bool = False,
) -> Choice:
    """The configuration of the record that fits best, or `SAFE`.

    Args:
        engine: That is to decode.
        task: Of the prompts, if it is known.
        batch: Sequences decoded together.
        max_new_tokens: Response length in tokens.
        allow: Levels to apply although they are never applied silently: `other-task`, `family`.
        objective: What the record is wanted to be tuned for.
        strict: Whether a record with a knob that nothing takes up is an error, and not a reason.

    Raises:
        TuningDatabaseError: The database is of a newer version; or, if `strict`, the record has a
            knob that nothing takes up, or leaves one unsaid.
        UsageError: There is no such level.
    """
    levels, objective = read_levels(allow), read_objective(objective)
    packaged = PackagedRecords(engine.package.records)
    others = layers(db=engine.database)
    problems = [layer.problem for layer in others if isinstance(layer, Unavailable)]
    key = key_of(
        engine, task=task, batch=batch, max_new_tokens=max_new_tokens, objective=objective
    )
    match, tested = _tested(engine, key, [packaged, *others], levels)
    reasons = [*match.reasons, *tested, *packaged.problems, *problems]
    if match.config is None or match.record is None:
        return Choice(SAFE, None, match.level.name, reasons)
    try:
        config = DecodingConfig(**match.config)
        config.check(max_new_tokens)
    except ConfigError as error:
        reason = f"record {match.record.id} cannot be applied by this version: {error}"
        return Choice(SAFE, None, "SAFE", [reason, *reasons])
    ignored = apply_neutral(engine, config, match.record.neutral) + unsaid(config, match.config)
    said = [f"record {match.record.id}: {text}" for text in ignored]
    if strict and said:
        raise TuningDatabaseError(
            f"{'; '.join(said)}; make the record again with `dllmc retarget`, or decode without "
            "strictness"
        )
    return Choice(config, match.record.id, match.level.name, [*said, *reasons])
