"""A tuning job from beginning to end."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import TrialState

from dllmc.autotune._front import verdict_key
from dllmc.autotune.budget import FROM_EFFORT, BudgetSpentError, Effort
from dllmc.autotune.confirm import baseline_passes, confirm
from dllmc.autotune.details import details
from dllmc.autotune.floors import floors
from dllmc.autotune.front_report import front_rows
from dllmc.autotune.opening import open_job
from dllmc.autotune.page import write as write_page
from dllmc.autotune.pareto import judge_front, members
from dllmc.autotune.prediction import check_predictions
from dllmc.autotune.preflight import TIMING_SHARE, preflight, search_share
from dllmc.autotune.publish import publish, report_rows
from dllmc.autotune.report import TuningReport, WorkerReport
from dllmc.autotune.retiming import time_finalists
from dllmc.autotune.search import search
from dllmc.autotune.shortlist import shortlist
from dllmc.autotune.sizing import finalists
from dllmc.autotune.structural import choose_select, said
from dllmc.policies.config import SAFE
from dllmc.spec import TuningError
from dllmc.tuning_db import Objective, Store, list_records
from dllmc.tuning_db.verdicts import VerdictStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import optuna

    from dllmc.autotune.job import Job
    from dllmc.autotune.progress import Callback
    from dllmc.runtime import Engine
    from dllmc.tasks import Task
    from dllmc.tuning_db import Record


def tune(
    engine: Engine,
    task: str | Task,
    *,
    margin: float = 0.02,
    budget: str | float | None = FROM_EFFORT,
    trials: int | None = None,
    effort: Effort | None = None,
    objective: Objective = "throughput",
    db: Path | str | Store | None = None,
    storage: Path | str | None = None,
    batch: int | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    space: Mapping[str, Any] | None = None,
    max_memory: str | int | None = None,
    max_compile: str | float | None = None,
    pareto: bool = False,
    limit: float | None = None,
    reference: Engine | None = None,
    report: Path | str | None = None,
    progress: Callback | Literal["rich"] | None = "rich",
    clock: Callable[[], float] = time.perf_counter,
) -> TuningReport:
    """Search how to decode `task` fast without losing quality, and record what was confirmed.

    Killed at any moment, the same call goes on where it stopped; finished, it gives the same
    report. Preflight and search take 36 to 56 % of the budget, timing the short list again 8 %,
    confirmation on held-out prompts 30 to 50 % according to what it needs, and timing the winner
    at batch 1 the last 6 %.

    Args:
        engine: From `dllmc.load` or `CompiledModel.engine`, in the way of execution that will
            serve.
        task: Name of a task, path of a JSONL file, or a task.
        margin: Loss of right answers against `QUALITY_REFERENCE` that is allowed, as a
            difference of shares.
        budget: Time for the whole job, earlier runs of it included: seconds or a text such as
            `90s` or `10m`; None for as long as the trials take; by default that of `effort`, or
            ten minutes.
        trials: Configurations to evaluate at most; None leaves it to `effort`, or the budget.
        effort: `quick`, `standard` or `thorough`: see `dllmc.autotune.budget.EFFORTS`.
        objective: What is to be short: `throughput` the time of a batch, `latency` that of a
            prompt alone, `first-block` the time until the first block of a prompt is committed.
        db: Tuning database; None takes the one that `engine` looks records up in.
        storage: Of the Optuna study, see `dllmc.autotune.storage`; None is an SQLite file next to
            the database. Where several processes work on a job, the database is shared too.
        batch: Prompts decoded together; 16 by default for throughput, else 1.
        max_new_tokens: Response length in tokens; None takes the task's.
        seed: Of search and prompts; another seed is another job, with fresh prompts where the
            task generates them.
        space: What to search, see `dllmc.autotune.search_space`. A job of less than ten minutes
            leaves out what needs other programs than the baseline's, unless it is named. `batch`
            and `select` are choices of execution, see `dllmc.autotune.structural`.
        max_memory: That a configuration may take: bytes, or a text such as `2GiB`.
        max_compile: Seconds in which the programs of a configuration may be compiled, or a text
            such as `60s`. What other configurations have compiled for it counts.
        pareto: Give the front, what nothing else beats in both speed and quality, instead of one
            pick: at most eight configurations, lossy ones among them. Each that keeps the margin
            gets a record; that any of these breaks it has probability 5 % at most.
        limit: Loss of right answers that the front shows, as a difference of shares; five
            margins by default.
        reference: Engine of the model as it was before `precision` rounded the weights of
            `engine`; needed for those, and for no others. Quality is then compared with what it
            decodes with `QUALITY_REFERENCE`.
        report: HTML file for the page of the job, with its JSON beside; None is the folder
            `reports` of the database.
        progress: `rich` for bars on standard error, a function, or None.
        clock: Seconds from any start.

    Raises:
        TaskError: There is no such task, or its file is wrong.
        TuningError: An argument is wrong, the storage cannot be used, or another process is at
            work on the same job.
        TuningDatabaseError: The database is of a newer version or cannot be written.
    """
    with open_job(
        engine,
        task,
        margin=margin,
        budget=budget,
        trials=trials,
        effort=effort,
        objective=objective,
        db=db,
        storage=storage,
        batch=batch,
        max_new_tokens=max_new_tokens,
        seed=seed,
        space=space,
        max_memory=max_memory,
        max_compile=max_compile,
        pareto=pareto,
        limit=limit,
        reference=reference,
        progress=progress,
        clock=clock,
    ) as job:
        return _run(job, None if report is None else Path(report))


def help_tune(engine: Engine, task: str | Task, **options: Any) -> WorkerReport:
    """Evaluate configurations of a job that `tune` brings to its end, here or elsewhere.

    Returns when the search is over: the trials or the budget are used up, or the process that
    runs `tune` goes on to confirm. It is killed without loss at any moment.

    Args:
        engine: As of the job: of another machine, software or execution it works on another job.
        task: As of the job.
        options: Of `tune`, as of the job; `budget` counts from now.

    Raises:
        TaskError: There is no such task, or its file is wrong.
        TuningError: An argument is wrong, or the storage cannot be used.
        TuningDatabaseError: The database is of a newer version or cannot be written.
    """
    with open_job(engine, task, helps=True, **options) as job:
        return _help(job)


def _help(job: Job) -> WorkerReport:
    try:
        pilot = preflight(job)
    except BudgetSpentError:
        evaluated = 0
    else:
        evaluated = search(job, pilot, search_share(job, pilot))
    return WorkerReport(
        task=job.task.name,
        study=job.study.study_name,
        storage=job.storage,
        trials=evaluated,
        spent=job.budget.spent,
    )


def _run(job: Job, page: Path | None) -> TuningReport:
    started = job.study.user_attrs.get("started")
    if started is None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        job.study.set_user_attr("started", started)
    # A job that is given more time or trials searches on, and may be helped again.
    job.study.set_user_attr("searched", False)
    try:
        pilot = preflight(job)
    except BudgetSpentError:
        raise TuningError(
            f"the budget of {job.budget.total:g} s ended before the search, after "
            f"{job.budget.spent:.0f} s; give more, what was decoded so far is kept"
        ) from None
    until = search_share(job, pilot)
    search(job, pilot, until)
    job.study.set_user_attr("searched", True)
    pareto = job.settings.limit is not None
    chosen = members(job, pilot) if pareto else finalists(job, pilot, shortlist(job, pilot))
    choose_select(job, pilot, chosen)
    timed = time_finalists(job, pilot, chosen, until + TIMING_SHARE)
    done = judge_front(job, timed) if pareto else confirm(job, pilot, timed)
    published = publish(job, pilot, done, started)
    record = published[0].record
    config = SAFE if done.winner is None else done.winner.candidate.config
    predictions = check_predictions(job, pilot, timed)
    possible = floors(job, pilot, config)
    page = page or job.store.root / "reports" / f"{job.study.study_name}.html"
    report = TuningReport(
        task=job.task.name,
        status=record.status,
        reason=record.reason,
        config=config,
        rows=report_rows(job, pilot, done),
        verdicts=done.verdicts,
        baseline_passes=baseline_passes(job, done),
        margin=job.settings.margin,
        smallest_margin=pilot.smallest_margin,
        noise_floor=pilot.noise_floor,
        trials=_counts(job.study),
        spent=job.budget.spent,
        record=record.id,
        path=published[0].path,
        study=job.study.study_name,
        storage=job.storage,
        predictions=predictions,
        notes=_notes(job, record),
        page=page,
        front=front_rows(done, published),
        limit=job.settings.limit,
    )
    write_page(details(job, pilot, timed, done, report, possible), page)
    return report


def _counts(study: optuna.Study) -> dict[str, int]:
    trials = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE, TrialState.PRUNED])
    refused = sum("refused" in trial.user_attrs for trial in trials)
    complete = sum(trial.state is TrialState.COMPLETE for trial in trials)
    stopped = len(trials) - complete - refused
    return {"complete": complete, "stopped early": stopped, "refused": refused}


def _notes(job: Job, record: Record) -> list[str]:
    """What was chosen of execution; how often a file's confirm prompts were used, which wears."""
    notes = said(job)
    if (whole := job.evaluator.reference) is not None:
        notes.append(
            f"quality is compared with weights as they were ({whole.weights_sha256[:12]}); where "
            "nothing was confirmed, rounding was not either: decode with the model as it was"
        )
    if job.task.kind != "user":
        return notes
    earlier = {
        item.record.provenance.study
        for item in list_records([job.store], task=job.task.name)
        if item.record.key.model.weights_sha256 == record.key.model.weights_sha256
    }
    # A record of the same pick takes the place of the one before; what was said of it stays.
    kept = verdict_key(job.evaluator.key, job.task.name)
    earlier |= {verdict.study for verdict in VerdictStore(job.store).load(kept)}
    earlier.discard(record.provenance.study)
    if not earlier:
        return notes
    return [
        *notes,
        f"the confirm prompts of {job.task.name} were used by {len(earlier)} earlier jobs; each "
        "use makes a lucky pass likelier, add fresh prompts now and then",
    ]
