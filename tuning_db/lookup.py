"""Which record fits, how well, and what would fit better."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from dllmc.tuning_db._files import short_id

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dllmc.tuning_db.record import Config, Key, Record

# Tasks on which a configuration must have been confirmed before it may serve another one.
OTHER_TASKS_NEEDED = 2


class Layer(Protocol):
    """What a lookup looks in: a `Store`, or the records that an artifact carries."""

    @property
    def name(self) -> str:
        """What a match calls it."""

    def records(self) -> list[Record]:
        """Every valid record."""


class Level(IntEnum):
    """How well a record fits, best first.

    - `EXACT`: everything is as it was measured.
    - `BUCKET`: another batch or length, inside the range that the record declares.
    - `STALE_SPEED`: other software, execution or device of the same architecture: quality holds,
      speed is unverified.
    - `OTHER_TASK`: the same weights, confirmed on other tasks. Never applied silently.
    - `FAMILY`: the same architecture with other weights, precision or numerics: nothing is known
      of quality. Never applied silently.
    - `SAFE`: no record; `SAFE` decodes.
    """

    EXACT = 0
    BUCKET = 1
    STALE_SPEED = 2
    OTHER_TASK = 3
    FAMILY = 4
    SAFE = 5


@dataclass(frozen=True, slots=True)
class Match:
    """What a lookup found.

    Attributes:
        level: How well the record fits.
        record: The record to apply. With level `SAFE` it is None, or a record of status `safe`,
            whose reason says why.
        layer: Name of the database that it is from.
        reasons: Why the level is not higher, and what would raise it; one line each.
        near: The best record that was not applied, if there is one.
    """

    level: Level
    record: Record | None = None
    layer: str | None = None
    reasons: list[str] = field(default_factory=list)
    near: Record | None = None

    @property
    def config(self) -> Config | None:
        """The decoding configuration to apply; None says `SAFE`."""
        return None if self.level is Level.SAFE or self.record is None else self.record.config

    def __str__(self) -> str:
        if self.record is None or self.level is Level.SAFE:
            return self.level.name
        return f"{self.level.name} {self.record.id} ({self.layer})"


@dataclass(frozen=True, slots=True)
class _Candidate:
    level: Level
    distance: tuple[float, ...]
    layer: int
    record: Record
    reason: str | None


def lookup(
    query: Key,
    stores: Sequence[Layer],
    *,
    allow: Collection[Level] = (),
    max_margin: float | None = None,
) -> Match:
    """The record that fits `query` best.

    The best level wins, then the earliest store, then the nearest workload and device, then the
    newest job, then the fastest that it confirmed. Only confirmed records count; a job that
    confirmed nothing hides earlier ones of the same circumstances that were given a wider margin.

    Args:
        query: Circumstances; `workload.task` may be None.
        stores: Databases, the one that wins first.
        allow: Levels to apply although they are never applied silently.
        max_margin: Ignore records that were allowed a greater loss.
    """
    found: list[_Candidate] = []
    settled: list[_Candidate] = []
    beyond: list[tuple[Record, str]] = []
    contents = [
        [r for r in store.records() if max_margin is None or r.margin <= max_margin]
        for store in stores
    ]
    tasks = _confirmed_tasks([record for records in contents for record in records])
    for index, records in enumerate(contents):
        for record in _in_force(records):
            level, distance, reason = _judge(query, record, tasks[_without_task(record)])
            if level is not Level.SAFE:
                candidate = _Candidate(level, distance, index, record, reason)
                (found if record.status == "confirmed" else settled).append(candidate)
            elif reason:
                beyond.append((record, reason))
    _sort(found)
    for item in found:
        if item.level <= Level.STALE_SPEED or item.level in allow:
            reasons = [item.reason] if item.reason else []
            return Match(item.level, item.record, stores[item.layer].name, reasons)
    near = found[0].record if found else beyond[0][0] if beyond else None
    if settled:
        _sort(settled)
        record, layer = settled[0].record, stores[settled[0].layer].name
        reason = f"job {record.provenance.study} confirmed nothing faster: {record.reason}"
        return Match(Level.SAFE, record, layer, [reason], near)
    if found:
        reason = (
            f"record {found[0].record.id} has level {found[0].level.name}, which is never applied "
            f"silently: {found[0].reason}; allow it with "
            f"--allow {found[0].level.name.lower().replace('_', '-')}, or tune this task here"
        )
    else:
        reason = beyond[0][1] if beyond else "no record is near; run dllmc tune"
    return Match(Level.SAFE, None, None, [reason], near)


def _sort(candidates: list[_Candidate]) -> None:
    """Best first; among equals the newest, and the fastest of a job that confirmed several."""
    candidates.sort(key=lambda item: _newest_and_fastest(item.record), reverse=True)
    candidates.sort(key=lambda item: (item.level, item.layer, item.distance))


def _newest_and_fastest(record: Record) -> tuple[str, float]:
    return record.provenance.started, 0.0 if record.speed is None else record.speed.ratio


def _in_force(records: Sequence[Record]) -> list[Record]:
    """Confirmed records, and those that say that nothing could be confirmed.

    Of the same circumstances, a job that confirmed nothing within a smaller margin hides what an
    earlier one confirmed within a wider; any other is itself hidden by what is confirmed.
    """
    confirmed: dict[str, list[Record]] = defaultdict(list)
    settled: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.status == "confirmed":
            confirmed[short_id(record.key.identity())].append(record)
        elif record.status == "safe":
            settled[short_id(record.key.identity())].append(record)
    kept = []
    for key in [*confirmed, *(key for key in settled if key not in confirmed)]:
        visible = [
            record
            for record in confirmed.get(key, ())
            if not any(_hides(safe, record) for safe in settled.get(key, ()))
        ]
        kept += visible or settled[key]
    return kept


def _hides(safe: Record, confirmed: Record) -> bool:
    newer = safe.provenance.started >= confirmed.provenance.started
    return newer and safe.margin < confirmed.margin


def _confirmed_tasks(records: Sequence[Record]) -> dict[str, set[str]]:
    """The tasks on which a configuration was confirmed, by `_without_task`."""
    tasks: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.status == "confirmed" and record.key.workload.task is not None:
            tasks[_without_task(record)].add(record.key.workload.task)
    return tasks


def _without_task(record: Record) -> str:
    key = record.key
    return short_id([key.model.weights_sha256, key.model.dtype, key.numerics, record.config])


def _judge(
    query: Key, record: Record, tasks: Collection[str]
) -> tuple[Level, tuple[float, ...], str | None]:
    """Level, distance within the level, and why it is not a better one."""
    key = record.key
    same_weights = key.model.weights_sha256 == query.model.weights_sha256
    same_numerics = key.model.dtype == query.model.dtype and key.numerics == query.numerics
    range_problem = _outside(query, record)
    if not (same_weights and same_numerics):
        if key.model.family != query.model.family or record.status == "safe" or range_problem:
            return Level.SAFE, (), None
        what = "other weights" if not same_weights else f"numerics `{key.numerics}`"
        same_task = key.workload.task == query.workload.task
        return Level.FAMILY, (not same_weights, not same_task), f"it was confirmed with {what}"
    if range_problem:
        return Level.SAFE, (), range_problem
    if key.workload.task != query.workload.task:
        return _other_task(query, record, tasks)
    if (
        key.hardware == query.hardware
        and not _other_software(key, query)
        and _same_graph(key, query)
        and key.execution == query.execution
    ):
        distance = _workload_distance(query, key)
        if distance == 0:
            return Level.EXACT, (0.0,), None
        reason = (
            f"it was timed at batch {key.workload.batch} and {key.workload.max_new_tokens} new "
            f"tokens for {key.workload.objective}; tune with what you decode for level EXACT"
        )
        return Level.BUCKET, (distance,), reason
    return _stale(query, record)


def _other_software(key: Key, query: Key) -> list[str]:
    """What has another version; drivers only where both know theirs, as old records do not."""
    old, new = key.software, query.software
    unsaid = {"driver"} - (old.keys() & new.keys())
    return [n for n in sorted((old.keys() | new.keys()) - unsaid) if old.get(n) != new.get(n)]


def _same_graph(key: Key, query: Key) -> bool:
    """Whether nothing speaks against it: records of schema 1 do not know their graph."""
    pairs = (
        (getattr(key.model, name), getattr(query.model, name))
        for name in ("graph_sha256", "passes_sha256")
    )
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _outside(query: Key, record: Record) -> str | None:
    for name in ("batch", "max_new_tokens"):
        value, allowed = getattr(query.workload, name), getattr(record.applies_to, name)
        if value not in allowed:
            return (
                f"record {record.id} holds for `{name}` {allowed}, not {value}; tune with {value}"
            )
    return None


def _other_task(
    query: Key, record: Record, tasks: Collection[str]
) -> tuple[Level, tuple[float, ...], str | None]:
    if record.status == "safe":
        return Level.SAFE, (), None
    asked = "no task is named" if query.workload.task is None else "this is another task"
    names = ", ".join(f"`{task}`" for task in sorted(tasks))
    if len(tasks) < OTHER_TASKS_NEEDED:
        reason = (
            f"record {record.id} was confirmed on {names} only, and {asked}; name the task or "
            "tune it"
        )
        return Level.SAFE, (), reason
    return Level.OTHER_TASK, (-len(tasks),), f"it was confirmed on {names}, and {asked}"


def _stale(query: Key, record: Record) -> tuple[Level, tuple[float, ...], str | None]:
    key = record.key
    if key.hardware.fallbacks()[-1] != query.hardware.fallbacks()[-1]:
        reason = (
            f"record {record.id} was measured on {key.hardware.id}, another architecture than "
            f"{query.hardware.id}; run dllmc retarget, which keeps its quality, or tune here"
        )
        return Level.SAFE, (), reason
    changes = [
        f"{name} {key.software.get(name, 'none')} is now {query.software.get(name, 'none')}"
        for name in _other_software(key, query)
    ]
    for name in ("graph_sha256", "passes_sha256"):
        old, new = getattr(key.model, name), getattr(query.model, name)
        if None not in (old, new) and old != new:
            what = "the graph" if name == "graph_sha256" else "what the passes do"
            changes.append(f"{what} has changed")
    if key.execution != query.execution:
        changes.append(f"execution {key.execution} is now {query.execution}")
    if key.hardware != query.hardware:
        changes.append(f"hardware {key.hardware.id} is now {query.hardware.id}")
    distance = (
        float(key.hardware.name != query.hardware.name),
        abs(math.log(max(1, key.hardware.units) / max(1, query.hardware.units))),
        float(key.execution != query.execution),
        float(len(changes)),
        _workload_distance(query, key),
    )
    reason = (
        f"its speed is unverified: {'; '.join(changes)}; run dllmc retarget to measure it, and "
        "dllmc db verify --model to see that answers are the same"
    )
    return Level.STALE_SPEED, distance, reason


def _workload_distance(query: Key, key: Key) -> float:
    asked, measured = query.workload, key.workload
    # Another objective is as far as a batch three times as large.
    return (asked.objective != measured.objective) * math.log(3) + math.hypot(
        math.log(asked.batch / measured.batch),
        math.log(asked.max_new_tokens / measured.max_new_tokens),
    )
