"""The search: one Optuna trial per configuration, raced over the tune prompts."""

from __future__ import annotations

import contextlib
import math
import random
import time
from statistics import median
from typing import TYPE_CHECKING, Final

import optuna
from optuna.trial import TrialState

from dllmc.autotune.budget import BudgetSpentError
from dllmc.autotune.job import describe
from dllmc.autotune.limits import compile_seconds, memory_of
from dllmc.autotune.neighbours import neighbour
from dllmc.autotune.racing import Race
from dllmc.autotune.space import PRESETS
from dllmc.autotune.study import reap, requeue
from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.spec import ConfigError, PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.evaluator import Batch
    from dllmc.autotune.job import Job, Pilot

# Batches of a trial that are timed next to the baseline.
_PAIRS: Final = 3
# Lower ends of the short list's tiers, as fractions of the fastest feasible speed.
TIERS: Final = (0.93, 0.75, 0.5)
# A configuration under this fraction of the best feasible speed is not decoded to the end: the
# short list has no use for it.
_TOO_SLOW: Final = TIERS[-1]
# The share of the budget after which a search that has found nothing gives up.
_LATEST: Final = 0.65
# Trials in a row that needed no decoding, after which the space counts as searched.
_REPEATS: Final = 25
# Trials where neither the user nor the budget says how many.
_DEFAULT_TRIALS: Final = 60

# Trials before the first that is a step from the best; after it one of so many is sampled. On the
# grids of four tasks, 33 trials a job, this reaches 0.92 of the fastest, and sampling alone 0.91.
_SCATTERED, _SAMPLED_EVERY = 9, 3
# Seconds between two looks at what others do.
_WAIT: Final = 0.2

FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)


def search(job: Job, pilot: Pilot, until: float) -> int:
    """Evaluate configurations until the trials, the space or the share of time are used up.

    Args:
        job: The job.
        pilot: What the preflight found.
        until: Share of the budget after which no batch is started, unless nothing was found yet
            that could be confirmed.

    Returns:
        Trials that this process has evaluated.
    """
    _enqueue_presets(job)
    job.best = _best(job)
    total = job.settings.trials or (_DEFAULT_TRIALS if job.budget.total is None else None)
    repeats = evaluated = 0
    while repeats < _REPEATS:
        reap(job.study, job.watch)
        done = len(job.study.get_trials(deepcopy=False, states=FINISHED))
        job.tell("search", done, total)
        if (total is not None and done >= total) or (job.helps and _is_over(job)):
            break
        if total is not None and done + _running(job) >= total:
            # Others are at the last ones. One of them may die, and its trial is left to who waits.
            if job.helps or job.budget.left(until) <= 0:
                break
            time.sleep(_WAIT)
            continue
        before = job.evaluator.decoded
        if done >= _SCATTERED and done % _SAMPLED_EVERY:
            _enqueue_neighbour(job, done)
        trial = job.study.ask()
        trial.set_user_attr("session", job.session)
        try:
            _run(job, pilot, trial, max(until, _LATEST) if job.best is None else until)
        except BudgetSpentError:
            requeue(job.study, trial.number)
            break
        except KeyboardInterrupt:
            requeue(job.study, trial.number)
            job.save_spent()
            raise
        evaluated += 1
        repeats = repeats + 1 if job.evaluator.decoded == before else 0
    job.save_spent()
    return evaluated


def _is_over(job: Job) -> bool:
    """Whether the process that brings the job to its end searches no more."""
    return bool(job.study.user_attrs.get("searched"))


def _running(job: Job) -> int:
    """Trials that other processes are evaluating."""
    return len(job.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))


def config_of(trial: optuna.trial.FrozenTrial) -> DecodingConfig:
    """The configuration that `trial` evaluated."""
    return DecodingConfig.from_json(trial.user_attrs["config"])


def _enqueue_presets(job: Job) -> None:
    if job.study.user_attrs.get("enqueued"):
        return
    for name, config in PRESETS.items():
        parameters = job.space.parameters(config)
        if parameters is not None:
            job.study.enqueue_trial(parameters, user_attrs={"preset": name}, skip_if_exists=True)
    job.study.set_user_attr("enqueued", True)


def _enqueue_neighbour(job: Job, done: int) -> None:
    parameters = neighbour(job.study, job.space, random.Random(f"{job.settings.seed}/{done}"))
    if parameters is not None:
        job.study.enqueue_trial(parameters, skip_if_exists=True)


def _run(job: Job, pilot: Pilot, trial: optuna.Trial, until: float) -> None:
    study = job.study
    try:
        config = job.space.suggest(trial)
        config = PRESETS.get(trial.user_attrs.get("preset", ""), config)
        trial.set_user_attr("config", config.canonical_json())
        speed, loss = _evaluate(job, pilot, trial, config, until)
    except optuna.TrialPruned:
        _tell(study, trial, state=TrialState.PRUNED)
    except (ConfigError, PlanError) as error:
        trial.set_user_attr("refused", str(error))
        trial.set_constraint("valid", 1.0)
        _tell(study, trial, state=TrialState.PRUNED)
    else:
        # Quality is an objective of a front only; of a single pick it is a constraint.
        _tell(study, trial, [speed, loss][: len(study.directions)])
        paces = _sets_pace(job, config, trial.constraints["quality"])
        if paces and math.exp(speed) > (job.best or 0.0):
            job.best = math.exp(speed)
            job.tell("search", trial.number, message=f"{job.best:.2f}x  {describe(config)}")


def _tell(
    study: optuna.Study,
    trial: optuna.Trial,
    values: list[float] | None = None,
    state: TrialState | None = None,
) -> None:
    """End `trial`, unless others have taken this process for dead and ended it before."""
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
        study.tell(trial.number, values, state)


def _evaluate(
    job: Job, pilot: Pilot, trial: optuna.Trial, config: DecodingConfig, until: float
) -> tuple[float, float]:
    """The logarithm of the speed as a multiple of the baseline's, and the loss.

    Raises:
        TrialPruned: The configuration is clearly too lossy.
        BudgetSpentError: The time is used up; what was decoded stays.
    """
    evaluator, tolerated = job.evaluator, job.settings.tolerated
    reference = evaluator.outcomes(QUALITY_REFERENCE)
    race, too_slow = Race(tolerated), False
    for index, batch in enumerate(pilot.tune):
        if not evaluator.knows(config, batch):
            job.budget.require(until)
            if index > 0 and _timed(job, config) < _PAIRS:
                evaluator.time(config, "SPEED_BASELINE", batch, "search", first=index % 2 == 0)
            else:
                evaluator.decode(config, batch)
            job.tell("search", trial.number)
        if index == 0:
            _check_limits(job, trial, config, batch)
        outcomes = evaluator.outcomes(config)
        for name in batch.ids:
            race.update(reference[name].correct, outcomes[name].correct)
        if race.lost:
            trial.set_constraint("quality", max(race.loss - tolerated, 1e-3))
            trial.set_user_attr("prompts", race.n)
            raise optuna.TrialPruned
        too_slow = _is_too_slow(job, config)
        if too_slow:
            break
    # Enough is known of the speed of what the preflight has timed.
    wanted = 1 if config == QUALITY_REFERENCE else _PAIRS
    while not too_slow and (timed := _timed(job, config)) < wanted:
        job.budget.require(until)
        batch = pilot.tune[(timed + 1) % len(pilot.tune)]
        evaluator.time(config, "SPEED_BASELINE", batch, "search", first=timed % 2 == 0)
    trial.set_constraint("quality", race.loss - tolerated)
    trial.set_user_attr("prompts", race.n)
    return math.log(_speed(job, config)), race.loss


def _check_limits(job: Job, trial: optuna.Trial, config: DecodingConfig, batch: Batch) -> None:
    """Note what `config` takes of what is limited.

    Raises:
        TrialPruned: It takes too much.
    """
    limits, evaluator, over = job.limits, job.evaluator, False
    if limits.memory is not None:
        taken = memory_of(evaluator.engine, config, batch, job.settings.length)
        trial.set_user_attr("memory", taken)
        trial.set_constraint("memory", float(taken - limits.memory))
        over = taken > limits.memory
    if limits.compiling is not None:
        seconds = compile_seconds(evaluator, config)
        trial.set_user_attr("compile_seconds", seconds)
        trial.set_constraint("compiling", seconds - limits.compiling)
        over |= seconds > limits.compiling
    if over:
        raise optuna.TrialPruned


def _best(job: Job) -> float | None:
    """The highest speed among the trials so far that set the pace."""
    speeds = [
        math.exp(trial.values[0])
        for trial in job.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if trial.values and _sets_pace(job, config_of(trial), trial.constraints["quality"])
    ]
    return max(speeds, default=None)


def _sets_pace(job: Job, config: DecodingConfig, excess: float) -> bool:
    """Whether what is much slower than `config` is of no use.

    A single pick needs nothing that is slower than what keeps the margin. On a front a slow one
    has its place, unless one that lost nothing is faster.

    Args:
        job: The job.
        config: Decoded to the end.
        excess: Its loss beyond the tolerated one.
    """
    limit = job.settings.limit
    return config != QUALITY_REFERENCE and excess <= (0.0 if limit is None else -limit)


def _is_too_slow(job: Job, config: DecodingConfig) -> bool:
    if job.best is None or not _timed(job, config):
        return False
    return _speed(job, config) < _TOO_SLOW * job.best


def _timed(job: Job, config: DecodingConfig) -> int:
    return len(job.evaluator.pairs(config, "SPEED_BASELINE", "search"))


def _speed(job: Job, config: DecodingConfig) -> float:
    pairs: Sequence[float] = [
        pair.ratio for pair in job.evaluator.pairs(config, "SPEED_BASELINE", "search")
    ]
    return median(pairs)
