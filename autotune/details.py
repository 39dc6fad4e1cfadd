"""Everything that a job's page shows, as plain JSON: what was tried, and what became of it."""

from __future__ import annotations

import platform
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import optuna
from optuna.trial import TrialState

from dllmc.autotune import noninferiority
from dllmc.autotune.evaluator import as_json
from dllmc.autotune.job import describe
from dllmc.autotune.search import FINISHED, config_of
from dllmc.autotune.timing import median_ratio
from dllmc.policies.config import QUALITY_REFERENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.autotune.job import Job, Pilot
    from dllmc.autotune.judging import Confirmation
    from dllmc.autotune.report import TuningReport
    from dllmc.autotune.retiming import Timed

FORMAT: Final = "dllmc tuning report"
VERSION: Final = 1
# Trials with a value under which importances say nothing.
_FEWEST: Final = 6


def details(
    job: Job,
    pilot: Pilot,
    timed: list[Timed],
    done: Confirmation,
    report: TuningReport,
    floors: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What a page is made of."""
    key = job.evaluator.key
    verdicts = {v.config.canonical_json(): v for v in done.verdicts}
    listed = {item.candidate.config.canonical_json(): item for item in timed}
    return {
        "format": FORMAT,
        "version": VERSION,
        "report": report.to_json(),
        "floors": floors,
        "circumstances": {
            "model": key.model.name,
            "weights_sha256": key.model.weights_sha256,
            "hardware": key.hardware.id,
            "numerics": key.numerics,
            "execution": key.execution,
            "software": {**key.software, "optuna": version("optuna"), "python": _python()},
            "batch": key.workload.batch,
            "max_new_tokens": key.workload.max_new_tokens,
            "seed": job.settings.seed,
            "started": job.study.user_attrs.get("started"),
            "command": job.settings.command,
        },
        "preflight": {
            "tune_prompts": sum(len(batch.ids) for batch in pilot.tune),
            "confirm_prompts": sum(len(batch.ids) for batch in done.prompts),
            "reference_seconds": pilot.reference_seconds,
            "baseline_seconds": pilot.baseline_seconds,
            "discordance": pilot.discordance,
            "noise_floor": pilot.noise_floor,
            "smallest_margin": pilot.smallest_margin,
        },
        "trials": [
            _trial(job, pilot, trial, listed, verdicts)
            for trial in job.study.get_trials(deepcopy=False, states=FINISHED)
        ],
        "importance": _importance(job.study),
    }


def _trial(
    job: Job,
    pilot: Pilot,
    trial: optuna.trial.FrozenTrial,
    listed: dict[str, Timed],
    verdicts: dict[str, Any],
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": trial.number,
        "preset": trial.user_attrs.get("preset"),
        "words": "",
        "config": None,
        "outcome": "refused",
        "why": trial.user_attrs.get("refused"),
    }
    if "config" not in trial.user_attrs:
        return row
    config, evaluator = config_of(trial), job.evaluator
    text = config.canonical_json()
    reference, own = evaluator.outcomes(QUALITY_REFERENCE), evaluator.outcomes(config)
    names = [n for batch in pilot.tune for n in batch.ids if n in own and n in reference]
    wins = sum(own[n].correct > reference[n].correct for n in names)
    losses = sum(own[n].correct < reference[n].correct for n in names)
    pairs = evaluator.pairs(config, "SPEED_BASELINE", "search")
    ratio = median_ratio([pair.ratio for pair in pairs]) if pairs else None
    row |= {
        "words": describe(config),
        "config": as_json(config),
        "n": len(names),
        "wins": wins,
        "losses": losses,
        "difference": (wins - losses) / len(names) if names else None,
        # Of those that are drawn with it: a bound takes 40 ms.
        "lower_bound": (
            noninferiority.lower_bound(wins, losses, len(names), job.settings.margin)
            if names and text in listed
            else None
        ),
        "nfe": sum(own[n].nfe for n in names) / len(names) if names else None,
        "ratio": None if ratio is None else ratio.median,
        "ratio_interval": None if ratio is None else [ratio.low, ratio.high],
    }
    if "refused" in trial.user_attrs:
        return row
    if config == QUALITY_REFERENCE:
        return row | {"outcome": "reference"}
    whole = sum(len(batch.ids) for batch in pilot.tune)
    verdict = verdicts.get(text)
    if verdict is not None:
        row["outcome"] = "confirmed" if verdict.passed else "not confirmed"
        row["why"] = verdict.reason
    elif text in listed:
        row["outcome"], row["why"] = "short list", "a safer one failed before, or it was no faster"
    elif trial.state is TrialState.PRUNED:
        row["outcome"] = "too lossy"
        row["why"] = f"{losses} lost and {wins} won of {len(names)} prompts, when it was given up"
    elif len(names) < whole:
        row["outcome"] = "too slow"
        row["why"] = f"under half the speed of the best, after {len(names)} prompts"
    elif any(value > 0 for value in trial.constraints.values()):
        row["outcome"] = "too lossy"
        row["why"] = f"{losses} lost and {wins} won of {len(names)} prompts"
    else:
        front = job.settings.limit is not None
        why = (
            "another was as fast and no worse, or near"
            if front
            else "another of its speed looked safer"
        )
        row["outcome"], row["why"] = "feasible", why
    return row


def _importance(study: optuna.Study) -> dict[str, float] | None:
    """Of each knob for the speed, by PED-ANOVA; None where there are too few trials.

    Of a job that was asked for a front, for coming near it.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    values = {tuple(trial.values) for trial in complete}
    if len(complete) < _FEWEST or len(values) < 2:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # The page says so: knobs of kinds that were seldom drawn have few trials.
            warnings.filterwarnings("ignore", message="Some regimes for parameter")
            found = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):
        return None  # no knob was searched in enough trials
    return {name: float(value) for name, value in found.items()}


def flattered(value: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Of each configuration that was tested: words, and its difference searched and on fresh
    prompts.
    """
    rows = {
        str(row["config"]): row for row in value["trials"] if row.get("difference") is not None
    }
    return [
        (row["words"], row["difference"], verdict["difference"])
        for verdict in value["report"]["verdicts"]
        if verdict["n"] and (row := rows.get(str(verdict["config"]))) is not None
    ]


def _python() -> str:
    return platform.python_version()
