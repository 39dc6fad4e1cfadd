"""Micro-benchmarks: how long the steps of an engine take, with no prompt decoded for it."""

from __future__ import annotations

import contextlib
import random
from statistics import median, quantiles
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from dllmc.runtime.programs import cache_shapes
from dllmc.runtime.programs.base import example_inputs
from dllmc.runtime.replay import replay
from dllmc.tuning_db.plan_speed import HostCost, Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine
    from dllmc.runtime.replay import ReplayedStep
    from dllmc.spec import StepPlan

# Rounds over all plans: a slow moment of the machine then falls on one timing of each.
_ROUNDS: Final = 9
# Timings per plan and round are repeated up to this many seconds, and the fastest counts: a
# program cannot run faster than it does, only be interrupted.
_SLICE: Final = 0.004
_MOST_REPEATS: Final = 5
# Decodes of random tokens per configuration: the most unless they take so many seconds.
_FEWEST_RUNS: Final = 2
_MOST_RUNS: Final = 7
_LONGEST: Final = 0.5
# Steps of each that are timed.
_MOST_STEPS: Final = 24


class Step(NamedTuple):
    """A step that was run, and the seconds that it took beside its program, and in all."""

    replayed: ReplayedStep
    beside: float
    seconds: float


def time_plans(
    engine: Engine, plans: Sequence[StepPlan], clock: Callable[[], float], rounds: int = _ROUNDS
) -> dict[str, Latency]:
    """The latency of the program of each of `plans`, all timed in turns.

    Args:
        engine: Whose programs, in the way of execution that will serve.
        plans: As `fit` gives them.
        clock: Seconds from any start.
        rounds: Timings of each.
    """
    found: dict[str, list[float]] = {plan.key: [] for plan in plans}
    for turn in range(rounds):
        for plan in plans:
            found[plan.key].append(_time_once(engine, plan, clock, warm=turn == 0))
    return {key: _latency(seconds) for key, seconds in found.items()}


def _time_once(engine: Engine, plan: StepPlan, clock: Callable[[], float], *, warm: bool) -> float:
    programs, device = engine.programs, engine.device
    graph = programs.graph(plan)
    inputs = example_inputs(graph, plan, device)
    if not plan.mask.startswith("row_limit"):
        inputs["key_limit"].fill_(plan.slots)
    dtype = getattr(torch, plan.dtype)
    # What a graph was captured on is lent to the next that asks for caches of this shape.
    inputs |= programs.caches(
        plan.batch, cache_shapes(graph), plan.slots + plan.scratch, dtype, device
    )
    for _ in range(2 if warm else 1):
        programs.run(plan, inputs)
    spent, best = 0.0, float("inf")
    for _ in range(_MOST_REPEATS):
        _synchronise(device)
        begun = clock()
        programs.run(plan, inputs)
        _synchronise(device)
        seconds = max(clock() - begun, 1e-9)
        best, spent = min(best, seconds), spent + seconds
        if spent >= _SLICE:
            break
    return best


def _latency(seconds: Sequence[float]) -> Latency:
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return Latency(n=len(seconds), median=median(seconds), low=max(low, 1e-9), high=high)


def time_host(
    engine: Engine,
    config: DecodingConfig,
    lengths: Sequence[int],
    max_new_tokens: int,
    clock: Callable[[], float],
    *,
    seed: int = 0,
) -> HostCost:
    """What decoding with `config` costs beside its programs, from decoding random tokens.

    Args:
        engine: What decodes.
        config: How.
        lengths: Tokens of each prompt of a batch.
        max_new_tokens: Response length in tokens.
        clock: Seconds from any start.
        seed: Of the random tokens.
    """
    prompts = _random_prompts(engine, lengths, seed)
    _decode(engine, config, prompts, max_new_tokens, clock)
    runs: list[list[Step]] = []
    calls: list[float] = []
    spent = 0.0
    while len(runs) < _FEWEST_RUNS or (len(runs) < _MOST_RUNS and spent < _LONGEST):
        steps, call = _decode(engine, config, prompts, max_new_tokens, clock)
        runs.append(steps)
        calls.append(call)
        spent += call + sum(step.seconds for step in steps)
    # Each run has the same steps: of each, the middle one of its times.
    steps = [
        Step(
            same[0].replayed,
            median(step.beside for step in same),
            median(step.seconds for step in same),
        )
        for same in zip(*runs, strict=True)
    ]
    fitted, error = _fit(steps)
    return HostCost(
        n=len(steps),
        step=fitted[0],
        row=fitted[1],
        gather=fitted[2],
        call=median(calls),
        error=error,
    )


def _random_prompts(engine: Engine, lengths: Sequence[int], seed: int) -> list[list[int]]:
    spec, generator = engine.spec, random.Random(seed)
    special = {spec.mask_id, *spec.eos_ids}
    plain = [token for token in range(spec.vocab_size) if token not in special]
    return [generator.choices(plain, k=length) for length in lengths]


def _decode(
    engine: Engine,
    config: DecodingConfig,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    clock: Callable[[], float],
) -> tuple[list[Step], float]:
    """The first steps, each with its times, and what the call takes besides them.

    Programs are timed within the steps: the speed of a machine drifts by more than what is left
    beside them.
    """
    begun = clock()
    pool, states = engine.open(prompts, config, max_new_tokens)
    call = clock() - begun
    seconds: list[tuple[float, float]] = []
    with _timed_programs(engine, clock) as within:
        while len(seconds) < _MOST_STEPS:
            within.clear()
            begun = clock()
            if engine.step(pool, states) is None:
                break
            _synchronise(engine.device)
            whole = clock() - begun
            seconds.append((max(whole - sum(within), 0.0), whole))
    begun = clock()
    if engine.package.tokenizer is not None:
        for state in states:
            engine.decode([t for t in state.output if t != engine.spec.mask_id])
    call += clock() - begun
    replayed = replay([state.needs for state in states], engine.programs)
    return [Step(s, *times) for s, times in zip(replayed, seconds, strict=True)], call


@contextlib.contextmanager
def _timed_programs(engine: Engine, clock: Callable[[], float]) -> Iterator[list[float]]:
    """The seconds that programs run for, as long as this lasts."""
    found: list[float] = []
    run = engine.programs.run

    def timed(plan: StepPlan, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        _synchronise(engine.device)
        begun = clock()
        result = run(plan, inputs)
        _synchronise(engine.device)
        found.append(clock() - begun)
        return result

    engine.programs.run = timed  # type: ignore[method-assign]
    try:
        yield found
    finally:
        engine.programs.run = run  # type: ignore[method-assign]


def features(step: ReplayedStep) -> tuple[float, float, float]:
    """What the coefficients of a `HostCost` are multiplied with."""
    rows = step.plan.batch * step.plan.head_rows
    return 1.0, rows, step.gathered * step.sequences * step.plan.slots


def _fit(steps: Sequence[Step]) -> tuple[list[float], float]:
    """Least squares of what is beside the programs, without negative coefficients."""
    matrix = np.array([features(step.replayed) for step in steps])
    beside, total = (np.array([getattr(s, name) for s in steps]) for name in ("beside", "seconds"))
    kept = list(range(matrix.shape[1]))
    solution = np.zeros(matrix.shape[1])
    # Relative to whole steps: short ones are many.
    weighted = matrix / total[:, None]
    while kept:
        found = np.linalg.lstsq(weighted[:, kept], beside / total, rcond=None)[0]
        if (found >= 0).all():
            solution[kept] = found
            break
        kept.pop(int(found.argmin()))
    error = np.median(np.abs(matrix @ solution - beside) / total)
    return [float(value) for value in solution], float(error)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
