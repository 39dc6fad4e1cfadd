"""From a confirmation to the record and the report."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dllmc.autotune._front import verdict_key
from dllmc.autotune._smoke import smoke_prompts
from dllmc.autotune.evaluator import as_json, batches
from dllmc.autotune.report import ReportRow
from dllmc.autotune.retiming import tokens_per_second
from dllmc.autotune.timing import median_ratio
from dllmc.policies.config import QUALITY_REFERENCE, SAFE, SPEED_BASELINE
from dllmc.tuning_db import (
    AppliesTo,
    Provenance,
    Quality,
    Range,
    Record,
    Smoke,
    Speed,
    SplitId,
    outcomes_digest,
    split_digest,
)
from dllmc.tuning_db.verdicts import StoredVerdict, VerdictStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dllmc.autotune.evaluator import Batch, Evaluator
    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.judging import Confirmation, Verdict
    from dllmc.autotune.retiming import Timed
    from dllmc.policies.config import DecodingConfig

# Of which the slowest is still faster than the reference with confidence 97 %.
_SINGLE_PAIRS: Final = 5


@dataclass(frozen=True, slots=True)
class Published:
    """A record, and where it is."""

    record: Record
    path: Path


@dataclass(frozen=True, slots=True)
class _Judged:
    """The prompts of a split that were decoded with a configuration and with the reference."""

    split: str
    ids: list[str]


def publish(job: Job, pilot: Pilot, done: Confirmation, started: str) -> list[Published]:
    """Write records of what passed, fastest first; where nothing did, that `SAFE` ships.

    Args:
        job: The job.
        pilot: What the preflight found.
        done: What held-out prompts said; it is filed too.
        started: Start of the job, ISO 8601 in UTC.
    """
    single, found = job.evaluator.at_batch(1), []
    confirmed: list[Timed | None] = [*done.published]
    for passed in confirmed or [None]:
        least = 1  # SAFE is safe at any batch
        if passed is not None:
            least = smallest_batch(job, pilot, passed.candidate.config, single)
        record = make_record(job, pilot, done, passed, started=started, smallest_batch=least)
        found.append(Published(record, job.store.put(record)))
    keep_verdicts(job, done, started)
    return found


def smallest_batch(job: Job, pilot: Pilot, winner: DecodingConfig, single: Evaluator) -> int:
    """The smallest batch that a record may speak for: 1 if the winner is faster there too.

    Args:
        job: The job.
        pilot: What the preflight found.
        winner: The confirmed configuration.
        single: An evaluator of the same workload at batch 1.
    """
    if job.settings.batch == 1:
        return 1
    prompts = batches(pilot.tune[0].samples, 1)
    while True:
        pairs = single.pairs(winner, "QUALITY_REFERENCE", "final")
        if len(pairs) >= _SINGLE_PAIRS:
            return 1 if min(pair.ratio for pair in pairs) > 1 else job.settings.batch
        if job.budget.left() <= 0:
            return job.settings.batch
        prompt = prompts[len(pairs) % len(prompts)]
        single.time(winner, "QUALITY_REFERENCE", prompt, "final", first=len(pairs) % 2 == 0)


def make_record(
    job: Job,
    pilot: Pilot,
    done: Confirmation,
    winner: Timed | None,
    *,
    started: str,
    smallest_batch: int,
) -> Record:
    """The record of `winner`, which was confirmed, or that nothing was."""
    verdict = None
    if winner is not None:
        verdict = next(v for v in done.verdicts if v.config == winner.candidate.config)
    config = SAFE if winner is None else winner.candidate.config
    length = job.settings.length
    return Record(
        key=job.evaluator.key,
        applies_to=AppliesTo(
            batch=Range(low=smallest_batch, high=job.settings.batch),
            max_new_tokens=Range(low=length, high=length),
        ),
        config=as_json(config),
        smoke=() if winner is None else _smoke(job, done, config),
        neutral={"select": "compiled"} if job.evaluator.compiles_decisions(config) else {},
        speed=None if winner is None else _speed(job, winner),
        quality=None if verdict is None else _quality(job, done, verdict),
        status="safe" if winner is None else "confirmed",
        reject=done.reject,
        reason=_reason(job, done) if winner is None else done.reason,
        provenance=Provenance(
            study=job.study.study_name,
            trial=None if winner is None else winner.candidate.trial,
            seed=job.settings.seed,
            started=started,
            command=job.settings.command,
            tune=_split(pilot.tune),
            confirm=_split([b for b in done.prompts if _known(job, QUALITY_REFERENCE, b)]),
            noise_floor=pilot.noise_floor,
            margin=job.settings.margin,
            host={"system": platform.platform(), "python": platform.python_version()},
        ),
    )


def _reason(job: Job, done: Confirmation) -> str | None:
    """Why nothing was confirmed; and of rounded weights, that rounding was not either."""
    if job.evaluator.reference is None:
        return done.reason
    rounded = f"rounding to {job.evaluator.engine.package.precision} was not confirmed either"
    return "; ".join(part for part in (done.reason, rounded) if part)


def _smoke(job: Job, done: Confirmation, config: DecodingConfig) -> tuple[Smoke, ...]:
    """A few confirm prompts with what `config` answers, which a run that resumes keeps."""
    known, name = dict(job.study.user_attrs.get("smoke", {})), config.canonical_json()
    if name not in known:
        found = smoke_prompts(job.evaluator, config, done.prompts[0])
        known[name] = [smoke.model_dump(mode="json") for smoke in found]
        job.study.set_user_attr("smoke", known)
    return tuple(Smoke.model_validate(value) for value in known[name])


def keep_verdicts(job: Job, done: Confirmation, started: str) -> None:
    """File what the confirm prompts said, for whoever asks on another machine."""
    kept = verdict_key(job.evaluator.key, job.task.name)
    found = [_stored(job, done, verdict, started) for verdict in done.verdicts if verdict.n]
    if found:
        VerdictStore(job.store).save(kept, job.study.study_name, found)


def _stored(job: Job, done: Confirmation, verdict: Verdict, started: str) -> StoredVerdict:
    ids = [name for batch in done.prompts for name in batch.ids][: verdict.n]
    quality = _quality(job, done, verdict)
    return StoredVerdict(
        config=as_json(verdict.config),
        seed=done.seed,
        study=job.study.study_name,
        margin=job.settings.margin,
        n=verdict.n,
        wins=verdict.wins,
        losses=verdict.losses,
        reference_right=round(quality.reference_value * verdict.n),
        lower_bound=verdict.lower_bound,
        p_value=verdict.p_value,
        passed=verdict.passed,
        test=done.test,
        metric=quality.metric,
        split_sha256=split_digest(ids),
        outcomes_sha256=quality.outcomes_sha256,
        started=started,
    )


def report_rows(job: Job, pilot: Pilot, done: Confirmation) -> list[ReportRow]:
    """Reference, baseline and winner, on the prompts that all of them were decoded for."""
    configs = {"QUALITY_REFERENCE": QUALITY_REFERENCE, "SPEED_BASELINE": SPEED_BASELINE}
    if done.winner is not None:
        configs["tuned"] = done.winner.candidate.config
    judged = _judged(job, pilot, done, list(configs.values()))
    rows = []
    for name, config in configs.items():
        outcomes = job.evaluator.outcomes(config)
        mine = [outcomes[sample] for sample in judged.ids]
        pairs = job.evaluator.pairs(config, "SPEED_BASELINE", "final")
        pairs = pairs or job.evaluator.pairs(config, "SPEED_BASELINE", "search")
        ratio = median_ratio([pair.ratio for pair in pairs])
        baseline = config == SPEED_BASELINE
        rows.append(
            ReportRow(
                name=name,
                config=config,
                split=judged.split,
                n=len(mine),
                exact_match=sum(outcome.correct for outcome in mine) / len(mine),
                nfe_mean=sum(outcome.nfe for outcome in mine) / len(mine),
                tokens_per_second=tokens_per_second(job, config),
                ratio=1.0 if baseline else ratio.median,
                interval=(1.0, 1.0) if baseline else (ratio.low, ratio.high),
            )
        )
    return rows


def _judged(
    job: Job, pilot: Pilot, done: Confirmation, configs: Sequence[DecodingConfig]
) -> _Judged:
    for split, prompts in (("confirm", done.prompts), ("tune", pilot.tune)):
        common = [b for b in prompts if all(_known(job, config, b) for config in configs)]
        if common:
            return _Judged(split, [name for batch in common for name in batch.ids])
    raise AssertionError("the preflight decodes every tune prompt")


def _speed(job: Job, winner: Timed) -> Speed:
    outcomes = job.evaluator.outcomes(winner.candidate.config).values()
    return Speed(
        n=winner.ratio.n,
        ratio=winner.ratio.median,
        interval=(winner.ratio.low, winner.ratio.high),
        reference_ratio=winner.reference_ratio.median,
        reference_interval=(winner.reference_ratio.low, winner.reference_ratio.high),
        tokens_per_second=winner.tokens_per_second,
        nfe_mean=sum(outcome.nfe for outcome in outcomes) / len(outcomes),
    )


def _quality(job: Job, done: Confirmation, verdict: Verdict) -> Quality:
    ids = [name for batch in done.prompts for name in batch.ids][: verdict.n]
    reference, own = (job.evaluator.outcomes(c) for c in (QUALITY_REFERENCE, verdict.config))
    right = [sum(outcomes[name].correct for name in ids) for outcomes in (reference, own)]
    metrics = {sample.metric for batch in done.prompts for sample in batch.samples}
    return Quality(
        metric=", ".join(sorted(metrics)),
        n=verdict.n,
        reference_value=right[0] / verdict.n,
        value=right[1] / verdict.n,
        difference=right[1] / verdict.n - right[0] / verdict.n,
        lower_bound=verdict.lower_bound,
        margin=job.settings.margin,
        p_value=verdict.p_value,
        test=done.test,
        split="confirm",
        outcomes_sha256=outcomes_digest(ids, reference, own),
    )


def _split(prompts: Sequence[Batch]) -> SplitId:
    ids = [name for batch in prompts for name in batch.ids]
    return SplitId(n=len(ids), sha256=split_digest(ids))


def _known(job: Job, config: DecodingConfig, batch: Batch) -> bool:
    return job.evaluator.knows(config, batch)
