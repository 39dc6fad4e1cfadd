"""What a tuning job begins with: its arguments checked, its study opened, its clock started."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from dllmc.autotune.budget import FROM_EFFORT, Budget, Effort, parse_budget, with_effort
from dllmc.autotune.evaluator import Evaluator, batches
from dllmc.autotune.job import PROTOCOL, Job, Settings
from dllmc.autotune.limits import memory_of, read_limits
from dllmc.autotune.liveness import Session, Watch
from dllmc.autotune.progress import rich_progress, silent
from dllmc.autotune.space import search_space
from dllmc.autotune.storage import parse_storage
from dllmc.autotune.structural import fastest_batch, read_structure
from dllmc.autotune.study import claim, open_study
from dllmc.policies.config import SPEED_BASELINE
from dllmc.runtime.records import key_of
from dllmc.spec import TuningError, nearest
from dllmc.tasks import get_task
from dllmc.tuning_db import EvidenceStore, Objective, Store, default_root, split_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from dllmc.autotune.limits import Limits
    from dllmc.autotune.progress import Callback
    from dllmc.autotune.space import SearchSpace
    from dllmc.autotune.structural import Structure
    from dllmc.runtime import Engine
    from dllmc.tasks import Task

# Tune prompts that tell whether a task is still the one that a study was begun with.
_PROBE: Final = 64

# Seconds. A program takes some 10 of them to compile on two cores, and each set of statistics
# and form of inputs that policies ask for is one.
_SHORT: Final = 600

# A front is searched as far as this multiple of the margin.
_BEYOND: Final = 5


@contextlib.contextmanager
def open_job(
    engine: Engine,
    task: str | Task,
    *,
    helps: bool = False,
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
    progress: Callback | Literal["rich"] | None = "rich",
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Job]:
    """A job under way, with the arguments of `tune`; `helps` says that another process ends it.

    Raises:
        TuningError: As `tune` does.
        TaskError: There is no such task, or its file is wrong.
    """
    budget, trials = with_effort(effort, budget, trials)
    seconds = parse_budget(budget)
    _check(margin, trials, batch, max_new_tokens, objective)
    _check_reference(engine, reference)
    limits = read_limits(max_memory, max_compile)
    limit = _limit(limit, margin, pareto=pareto)
    short = seconds is not None and seconds < _SHORT
    structure, narrowing = read_structure(
        space or {},
        batch=batch or (16 if objective == "throughput" else 1),
        objective=objective,
        backend=engine.backend,
        long=not short,
    )
    found = get_task(task) if isinstance(task, str) else task
    length = max_new_tokens or found.max_new_tokens
    store = db if isinstance(db, Store) else Store(db or engine.database or default_root())
    store.require_writable()
    allowed = search_space(engine.spec, length, narrowing, same_programs=short)
    if helps and len(structure.batches) > 1:
        raise TuningError(
            f"a worker cannot choose of batch={','.join(map(str, structure.batches))}; give it "
            "the one that the job says it has chosen"
        )
    begun = clock()
    evaluator = _evaluator(
        Evaluator(
            engine,
            found,
            reference=reference,
            max_new_tokens=length,
            batch=structure.batches[0],
            evidence=EvidenceStore(store),
            clock=clock,
            objective=objective,
        ),
        structure,
        limits,
        seed,
    )
    choosing, batch = max(0.0, clock() - begun), evaluator.key.workload.batch
    settings = Settings(
        margin=margin,
        batch=batch,
        length=length,
        seed=seed,
        trials=trials,
        # The batch that was chosen is part of the key.
        narrowing={key: value for key, value in (space or {}).items() if key != "batch"},
        command=_command(
            engine, found, margin, budget, trials, objective, batch, seed, space, limit, limits
        )
        + ("" if reference is None else f" --reference {reference.name}"),
        objective=objective,
        limit=limit,
    )
    identity = _identity(engine, found, settings, allowed) | limits.identity()
    if reference is not None:
        identity["reference"] = reference.weights_sha256
    name = f"{found.name}-{split_digest([json.dumps(identity, sort_keys=True)])[:12]}"
    where = storage or store.root / "studies.sqlite3"
    shown = rich_progress() if progress == "rich" else contextlib.nullcontext(progress or silent)
    with (
        open_study(where, name, identity, seed, front=pareto, alone=not helps) as study,
        Session(study) as session,
        shown as callback,
    ):
        spent = 0.0 if helps else float(study.user_attrs.get("spent", 0.0))
        job = Job(
            settings=settings,
            task=found,
            space=allowed,
            evaluator=evaluator,
            study=study,
            store=store,
            budget=Budget(seconds, spent + choosing, clock),
            callback=callback,
            storage=str(parse_storage(where)),
            session=session.id,
            watch=Watch(study),
            structure=structure,
            limits=limits,
            helps=helps,
        )
        if not helps and parse_storage(where).path is None:
            claim(study, session.id, job.watch)
        try:
            yield job
        finally:
            job.save_spent()


def _evaluator(first: Evaluator, structure: Structure, limits: Limits, seed: int) -> Evaluator:
    """The evaluator of the batch that is the fastest of those that fit."""

    def fits(evaluator: Evaluator) -> bool:
        if limits.memory is None:
            return True
        workload = evaluator.key.workload
        samples = evaluator.task.samples("tune", workload.batch, seed)
        batch = batches(samples, workload.batch)[0]
        length = workload.max_new_tokens
        return memory_of(evaluator.engine, SPEED_BASELINE, batch, length) <= limits.memory

    return first.at_batch(fastest_batch(first.at_batch, structure.batches, seed, fits))


def _check(
    margin: float,
    trials: int | None,
    batch: int | None,
    max_new_tokens: int | None,
    objective: str,
) -> None:
    if objective not in get_args(Objective):
        hint = nearest(objective, get_args(Objective))
        raise TuningError(f"`objective`={objective!r} is unknown; {hint}")
    if not (0 < margin < 1) or math.isnan(margin):
        raise TuningError(
            f"`margin`={margin!r} must be between 0 and 1, both excluded; 0.02 allows to lose 2 "
            "of 100 right answers"
        )
    for name, value in (("trials", trials), ("batch", batch), ("max_new_tokens", max_new_tokens)):
        if value is not None and value < 1:
            raise TuningError(f"`{name}`={value} must be at least 1")


def _check_reference(engine: Engine, reference: Engine | None) -> None:
    rounded = engine.package.precision
    if reference is None:
        if rounded is not None:
            raise TuningError(
                f"the weights of `{engine.name}` were rounded to {rounded}, and its own answers "
                "do not tell what that costs; give the model as it was: `reference` (--reference)"
            )
        return
    if rounded is None:
        raise TuningError(
            f"`reference` is for rounded weights, and those of `{engine.name}` are as they came; "
            "leave it out"
        )
    if reference.package.precision is not None or reference.spec != engine.spec:
        raise TuningError(
            f"`reference`, `{reference.name}`, is not the model as it was: compile it without "
            "`precision`"
        )


def _limit(limit: float | None, margin: float, *, pareto: bool) -> float | None:
    """The loss that a front may have; None where one configuration is picked."""
    if not pareto:
        if limit is not None:
            raise TuningError(f"`limit`={limit!r} is of a front; give `pareto` (--pareto) too")
        return None
    if limit is None:
        return min(_BEYOND * margin, 1.0)
    if not margin <= limit <= 1:
        raise TuningError(
            f"`limit`={limit!r} must be at least the margin of {margin:g} and at most 1; 0.1 "
            "shows what loses up to 10 of 100 right answers"
        )
    return limit


def _identity(
    engine: Engine, task: Task, settings: Settings, allowed: SearchSpace
) -> dict[str, Any]:
    """What the results of a study depend on; a study with another identity is another study."""
    key = key_of(
        engine,
        task=task.name,
        batch=settings.batch,
        max_new_tokens=settings.length,
        objective=settings.objective,
    )
    probe = batches(task.samples("tune", _PROBE, settings.seed), _PROBE)[0]
    identity = {
        "protocol": PROTOCOL,
        **key.identity(),
        "margin": settings.margin,
        "prompts": probe.id,
        "seed": settings.seed,
        "space": settings.narrowing,
        # Optuna refuses other choices in the same study.
        "kinds": allowed.kinds,
    }
    if settings.limit is not None:
        identity["front"] = settings.limit  # has two objectives
    # As it comes back from the storage: lists for tuples.
    return dict(json.loads(json.dumps(identity)))


def _command(
    engine: Engine,
    task: Task,
    margin: float,
    budget: str | float | None,
    trials: int | None,
    objective: str,
    batch: int,
    seed: int,
    space: Mapping[str, Any] | None,
    limit: float | None,
    limits: Limits,
) -> str:
    words = [f"dllmc tune {engine.name} --task {task.name} --margin {margin:g}"]
    words += [] if budget is None else [f"--budget {budget}"]
    words += [] if trials is None else [f"--trials {trials}"]
    words += [] if objective == "throughput" else [f"--objective {objective}"]
    words += [] if limit is None else [f"--pareto --limit {limit:g}"]
    words += [f"--batch {batch} --seed {seed}", *limits.words()]
    words += [f"--space {key}={value}" for key, value in (space or {}).items() if key != "batch"]
    return " ".join(words)
