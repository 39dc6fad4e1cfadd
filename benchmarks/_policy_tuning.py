"""A small search over a strategy's own knobs: the fastest that is right as often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optuna
from _policy_runs import Measured

from dllmc.autotune.space import Domain, SearchSpace, _domain
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dllmc.policies._base import Policy
    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.published import Strategy
    from dllmc.runtime import Engine
    from dllmc.tasks import Sample, Task


def own_space(strategy: Strategy, config: DecodingConfig, length: int) -> SearchSpace:
    """The knobs of a strategy's policies.

    What it says in words, such as the form of drafts, is what it is, and stays.
    """
    domains = {
        (policy.axis, policy.kind): dict(_domains(policy, strategy, length))
        for policy in config.policies
    }
    return SearchSpace(length, {axis: (kind,) for axis, kind in domains}, domains)


def _domains(policy: Policy, strategy: Strategy, length: int) -> Iterator[tuple[str, Domain]]:
    said = strategy.fields.get(policy.axis, {})
    knobs = policy.knobs()
    for name in type(policy).model_fields:
        if name in knobs and not isinstance(said.get(name), str):
            yield name, _domain(type(policy), name, knobs[name], length)
        elif name != "kind":
            yield name, Domain(choices=(getattr(policy, name),))


def tune(
    engine: Engine,
    task: Task,
    space: SearchSpace,
    published: DecodingConfig,
    parts: Sequence[Sequence[Sample]],
    *,
    least: int,
    trials: int,
) -> tuple[DecodingConfig, bool]:
    """The fastest configuration of the space with at least so many right answers, and True.

    The published one is tried first. Where none has as many, the one with the largest share of
    right answers among those that it was tried on, and False.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=4)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    tried: dict[str, tuple[float, DecodingConfig]] = {}
    misses = sum(map(len, parts)) - least

    def judge(trial: optuna.Trial) -> float:
        try:
            config = space.suggest(trial) if trial.number else published
        except ConfigError as error:
            raise optuna.TrialPruned(str(error)) from None
        name = config.canonical_json()
        if name not in tried:
            tried[name] = _value(engine, task, config, parts, misses), config
        return tried[name][0]

    study.optimize(judge, n_trials=trials)
    value, found = max(tried.values(), key=lambda entry: entry[0])
    return found, value > 0


def _value(
    engine: Engine, task: Task, config: DecodingConfig, parts: Sequence[Any], misses: int
) -> float:
    """Tokens per second; minus the share of wrong answers if they are more than `misses`.

    Such a configuration is not tried further than to know that: the share is that of the prompts
    it was tried on.
    """
    measured = Measured()
    for part in parts:
        measured.add(engine, task, config, part)
        if measured.correct.count(False) > misses:
            return measured.exact - 1
    return measured.rate
