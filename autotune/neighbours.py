"""Configurations that differ in one choice from the best that was found.

A sampler that models which values are good needs some ten trials per knob to prefer those next
to the best; a search has few more trials than that in all. So most of its later trials are one
step from the fastest that kept the margin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from optuna.trial import TrialState

from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.spec import ConfigError, PlanError

if TYPE_CHECKING:
    import random

    import optuna

    from dllmc.autotune.space import SearchSpace

# Of the fastest, whose neighbours are tried: the first may be there by luck.
_CENTRES: Final = 3


def neighbour(
    study: optuna.Study, space: SearchSpace, rng: random.Random
) -> dict[str, Any] | None:
    """Parameters one step from one of the best trials that no trial has evaluated; None if none.

    Args:
        study: With the trials so far.
        space: That they are drawn from.
        rng: Decides the order of steps.
    """
    trials = study.get_trials(deepcopy=False)
    seen = {trial.user_attrs.get("config") for trial in trials}
    good = [trial for trial in trials if _is_good(trial)]
    good.sort(key=lambda trial: -trial.values[0])
    for trial in good[:_CENTRES]:
        steps = list(space.steps(trial.params))
        rng.shuffle(steps)
        for parameters in steps:
            if _config(space, parameters) not in {None, *seen}:
                return parameters
    return None


def _is_good(trial: optuna.trial.FrozenTrial) -> bool:
    return (
        trial.state == TrialState.COMPLETE
        and all(value <= 0 for value in trial.constraints.values())
        and DecodingConfig.from_json(trial.user_attrs["config"]) != QUALITY_REFERENCE
    )


def _config(space: SearchSpace, parameters: dict[str, Any]) -> str | None:
    try:
        return space.config_of(parameters).canonical_json()
    except (ConfigError, PlanError):
        return None
