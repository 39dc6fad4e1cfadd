"""Whether records still hold: hashes made again from the evidence, and a sample decoded again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dllmc.autotune._front import verdict_key
from dllmc.autotune.evaluator import Evaluator, batches, id_of
from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.runtime.records import PackagedRecords
from dllmc.runtime.smoke import smoke_test
from dllmc.spec import ConfigError, TaskError
from dllmc.tasks import get_task
from dllmc.tuning_db import (
    EvidenceStore,
    answer_digest,
    outcomes_digest,
    shipped,
    split_digest,
)
from dllmc.tuning_db.verdicts import VerdictStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.runtime import Engine
    from dllmc.tasks import Task
    from dllmc.tuning_db import Record, Store
    from dllmc.tuning_db.verdicts import StoredVerdict


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one record.

    Attributes:
        record: Its id.
        task: Its task.
        compared: Prompts that were decoded again.
        same: Of these, with the same answer as when the record was confirmed.
        problem: What is wrong, or why it could not be checked; None if nothing is.
    """

    record: str
    task: str
    compared: int = 0
    same: int = 0
    problem: str | None = None

    def __str__(self) -> str:
        told = f"record {self.record} ({self.task}): "
        if self.problem is not None:
            return told + self.problem
        return told + f"{self.same} of {self.compared} answers are the same"


def recheck(engine: Engine, store: Store, *, sample: int = 16) -> list[Checked]:
    """Check the confirmed records of the weights of `engine`.

    The prompts that confirmed a record are drawn again, what they answered is read from the
    evidence, and the record's hashes are made from both. Some are then decoded again: with the
    same numerics every answer must be the same; with others it is the token-match test that says
    how many are. Where evidence or task are not here, the record's own smoke prompts have to do,
    and so they do for what the artifact or dllmc itself brings along.

    Args:
        engine: What decodes.
        store: The database, with its evidence.
        sample: Prompts of each record that are decoded again.
    """
    own = _of(engine, store.records())
    known = {record.id for record in own}
    brought = [*PackagedRecords(engine.package.records).records(), *shipped().records()]
    carried = {r.id: r for r in reversed(_of(engine, brought)) if r.smoke and r.id not in known}
    return [
        *(_check(engine, store, record, sample) for record in own),
        *(_by_smoke(engine, record, "its evidence is not here") for record in carried.values()),
    ]


def _of(engine: Engine, records: Sequence[Record]) -> list[Record]:
    """The confirmed ones of the weights of `engine`."""
    weights = engine.weights_sha256
    return [
        record
        for record in records
        if record.status == "confirmed" and record.key.model.weights_sha256 == weights
    ]


def _check(engine: Engine, store: Store, record: Record, sample: int) -> Checked:
    name = str(record.key.workload.task)
    try:
        config = DecodingConfig(**record.config)
    except ConfigError as error:
        return Checked(record.id, name, problem=f"cannot be checked: {error}")
    verdict = _verdict_of(store, record, config)
    if verdict is None:
        return _by_smoke(engine, record, "its evidence is not here")
    try:
        task = get_task(name)
    except TaskError as error:
        return _by_smoke(engine, record, str(error))
    workload = record.key.workload
    there = Evaluator(
        engine,
        task,
        max_new_tokens=workload.max_new_tokens,
        batch=workload.batch,
        evidence=EvidenceStore(store),
        clock=time.perf_counter,
    ).of_numerics(record.key.numerics)
    problem = _recompute(there, task, record, config, verdict)
    if problem is not None:
        return Checked(record.id, name, problem=problem)
    return _decode_again(engine, there, task, record, config, verdict, sample)


def _by_smoke(engine: Engine, record: Record, lacking: str) -> Checked:
    """What the few prompts say that the record carries itself; `lacking` why nothing else does."""
    result, problem = smoke_test(engine, record), None
    if not result.prompts:
        problem = f"cannot be checked: {lacking}"
    elif result.problem is not None:
        problem = f"cannot be checked: {lacking}, and {result}"
    elif not result.passed and engine.numerics == record.key.numerics:
        problem = f"only {result}, with the same numerics; tune again"
    task = str(record.key.workload.task)
    return Checked(record.id, task, result.prompts, result.same, problem)


def _verdict_of(store: Store, record: Record, config: DecodingConfig) -> StoredVerdict | None:
    """The verdict that the record is from: the one with its hash of outcomes."""
    wanted = None if record.quality is None else record.quality.outcomes_sha256
    key = verdict_key(record.key, str(record.key.workload.task))
    for verdict in VerdictStore(store).load(key):
        if verdict.outcomes_sha256 == wanted and DecodingConfig(**verdict.config) == config:
            return verdict
    return None


def _recompute(
    there: Evaluator, task: Task, record: Record, config: DecodingConfig, verdict: StoredVerdict
) -> str | None:
    names = [id_of(s) for s in task.samples("confirm", verdict.n, verdict.seed)]
    if split_digest(names) != verdict.split_sha256:
        return "the task gives other prompts than those that confirmed it; tune again"
    reference, own = there.outcomes(QUALITY_REFERENCE), there.outcomes(config)
    missing = sum(name not in reference or name not in own for name in names)
    if missing:
        return f"cannot be checked: {missing} of {len(names)} answers are not in the evidence"
    if outcomes_digest(names, reference, own) != verdict.outcomes_sha256:
        return "the evidence has other answers than those that confirmed it"
    wins = sum(own[name].correct > reference[name].correct for name in names)
    losses = sum(own[name].correct < reference[name].correct for name in names)
    difference = (wins - losses) / len(names)
    assert record.quality is not None
    if abs(difference - record.quality.difference) > 1e-9:
        return (
            f"its difference is {record.quality.difference:+.4f}, the evidence's {difference:+.4f}"
        )
    return None


def _decode_again(
    engine: Engine,
    there: Evaluator,
    task: Task,
    record: Record,
    config: DecodingConfig,
    verdict: StoredVerdict,
    sample: int,
) -> Checked:
    workload, known = record.key.workload, there.outcomes(config)
    same = compared = 0
    for batch in batches(
        task.samples("confirm", verdict.n, verdict.seed)[:sample], workload.batch
    ):
        found = engine.generate(
            [s.prompt for s in batch.samples],
            max_new_tokens=workload.max_new_tokens,
            config=config,
            batch=workload.batch,
        )
        answers = [answer_digest(tokens) for tokens in found.tokens]
        compared += len(answers)
        same += sum(known[name].answer == a for name, a in zip(batch.ids, answers, strict=True))
    problem = None
    if same < compared and engine.numerics == record.key.numerics:
        problem = (
            f"{compared - same} of {compared} answers are not what they were, with the same "
            "numerics; tune again"
        )
    return Checked(record.id, str(workload.task), compared, same, problem)
