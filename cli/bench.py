"""`dllmc bench`: configurations timed against one another on this machine."""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllmc.cli._config import describe, read_config
from dllmc.cli._console import output, print_json, progress, say, table
from dllmc.cli._floors import Work, distance_json, distance_table, distances
from dllmc.cli._published import Added
from dllmc.cli._subject import DEVICE_HELP, open_engine, response_length, task_name
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine
    from dllmc.runtime.records import Choice

_REFERENCE, _BASELINE, _AUTO = "QUALITY_REFERENCE", "SPEED_BASELINE", "auto"
# Of prompts of random tokens.
_PROMPT_LENGTH = 16


@dataclass
class Measured:
    """Timings of one configuration.

    Attributes:
        config: What was timed.
        rates: Response tokens per second, one value per round.
        nfe: Evaluations per prompt, mean of all rounds.
        steps: Seconds of every step, by batch and rows of its plan.
    """

    config: DecodingConfig
    rates: list[float] = field(default_factory=list)
    nfe: float = 0.0
    steps: dict[tuple[int, int], list[float]] = field(default_factory=lambda: defaultdict(list))


def command(
    art: Annotated[str, typer.Argument(metavar="ART", help="An artifact, or a model.")],
    batch: Annotated[int, typer.Option(help="Sequences decoded together.")] = 1,
    prompts: Annotated[int, typer.Option(help="Prompts per round.")] = 8,
    rounds: Annotated[int, typer.Option(help="Rounds; each times every configuration.")] = 5,
    task: Annotated[
        str | None, typer.Option(help="Where prompts come from; else they are random tokens.")
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option(help="One more configuration; may be given several times.")
    ] = None,
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle",
            help="Instead of times, evaluations: each configuration's, and the fewest that one "
            "would need who knew the final tokens; of every built-in task where none is given.",
        ),
    ] = False,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Every published strategy too, at its defaults and in blocks of 8.",
        ),
    ] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of the response.")] = None,
    auxiliary: Annotated[
        str | None,
        typer.Option(help="The causal model that `apd` and `specdiff` ask: ART, or a model."),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Its own if left out.")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    db: Annotated[str | None, typer.Option(help="The tuning database.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time QUALITY_REFERENCE, SPEED_BASELINE and the record in force, interleaved; or count."""
    for name, value in (("batch", batch), ("prompts", prompts), ("rounds", rounds)):
        if value < 1:
            raise UsageError(f"`--{name}`={value} must be at least 1")
    more = _more(config or [])
    engine = open_engine(art, backend=backend, device=device, database=db, auxiliary=auxiliary)
    added = Added(more, published)
    if oracle:
        _print_floors(engine, task, added, prompts, batch, max_new_tokens, as_json=json)
        return
    ids, length = _prompts(engine, task, prompts, max_new_tokens)
    choice = _auto(engine, task, min(batch, prompts), length)
    measured = _measure(
        engine, _named(choice.config) | added.configs(engine, length), ids, length, batch, rounds
    )
    if json:
        print_json(_json(engine, measured, choice.record, choice.match))
        return
    say(f"{engine.name}, {engine.numerics}, {engine.hardware.id}")
    say(f"{prompts} prompts, batch {batch}, {length} new tokens, {rounds} rounds\n")
    output().print(_rates(measured))
    say(f"\nauto is {choice.match}: {describe(choice.config)}\n")
    output().print(_steps(measured))


def _more(texts: Sequence[str]) -> dict[str, DecodingConfig]:
    """Configurations beside those that are always there, by what they were called."""
    read = {text: read_config(text) for text in texts}
    return {
        describe(config) if text.lstrip().startswith("{") else text: config
        for text, config in read.items()
        if config is not None
    }


def _named(auto: DecodingConfig) -> dict[str, DecodingConfig]:
    from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE

    return {_REFERENCE: QUALITY_REFERENCE, _BASELINE: SPEED_BASELINE, _AUTO: auto}


def _print_floors(
    engine: Engine,
    task: str | None,
    added: Added,
    prompts: int,
    batch: int,
    length: int | None,
    *,
    as_json: bool,
) -> None:
    from dllmc.tasks import task_names

    every = task_names() if engine.package.tokenizer is not None else (None,)
    works = {}
    for name in every if task is None else (task,):
        ids, tokens = _prompts(engine, name, prompts, length)
        auto = _auto(engine, name, min(batch, prompts), tokens)
        works[name or "random tokens"] = Work(
            ids, tokens, _named(auto.config) | added.configs(engine, tokens)
        )
    found = distances(engine, works, batch)
    if as_json:
        print_json({**_subject(engine), "prompts": prompts, "tasks": distance_json(found, works)})
        return
    say(f"{engine.name}, {engine.numerics}; {prompts} prompts of each task\n")
    output().print(distance_table(found))


def _prompts(
    engine: Engine, task: str | None, count: int, length: int | None
) -> tuple[list[list[int]], int]:
    """Token ids of each prompt, and the length of the responses."""
    if task is not None:
        from dllmc.tasks import get_task

        found = get_task(task)
        samples = found.samples("test", count)
        return [engine.encode(s.prompt) for s in samples], length or found.max_new_tokens
    spec, rng = engine.spec, random.Random(0)
    special = {spec.mask_id, spec.pad_id, *spec.eos_ids}
    known = [token for token in range(spec.vocab_size) if token not in special]
    ids = [rng.choices(known, k=_PROMPT_LENGTH) for _ in range(count)]
    return ids, length or response_length(engine)


def _auto(engine: Engine, task: str | None, batch: int, length: int) -> Choice:
    from dllmc.runtime.records import choose_record

    return choose_record(engine, task=task_name(task), batch=batch, max_new_tokens=length)


def _measure(
    engine: Engine,
    configs: Mapping[str, DecodingConfig],
    prompts: Sequence[Sequence[int]],
    length: int,
    batch: int,
    rounds: int,
) -> dict[str, Measured]:
    found = {name: Measured(config) for name, config in configs.items()}
    with progress() as bar:
        line = bar.add_task("first steps, which compile", total=len(found) * (rounds + 1))
        for entry in found.values():
            _decode(engine, Measured(entry.config), prompts[:batch], length, batch)
            bar.advance(line)
        for number in range(rounds):
            bar.update(line, description=f"round {number + 1}")
            # Each configuration comes first, second and so on in turn: machines drift.
            names = list(found)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                _decode(engine, found[name], prompts, length, batch)
                bar.advance(line)
    return found


def _decode(
    engine: Engine, into: Measured, prompts: Sequence[Sequence[int]], length: int, batch: int
) -> None:
    """Decode all prompts once and add what was timed."""
    tokens, evaluations, begun = 0, 0, time.perf_counter()
    for first in range(0, len(prompts), batch):
        pool, states = engine.open(prompts[first : first + batch], into.config, length)
        before = time.perf_counter()
        while (outcome := engine.step(pool, states)) is not None:
            now = time.perf_counter()
            into.steps[outcome.plan.batch, outcome.plan.rows].append(now - before)
            before = now
        tokens += sum(_length(state.response, engine.spec.eos_ids) for state in states)
        evaluations += sum(state.nfe for state in states)
    into.rates.append(tokens / (time.perf_counter() - begun))
    into.nfe = evaluations / len(prompts)


def _length(response: Sequence[int], ends: Sequence[int]) -> int:
    """Tokens up to and with the first end."""
    return next((i + 1 for i, token in enumerate(response) if token in ends), len(response))


def _rates(measured: dict[str, Measured]) -> Table:
    columns = ("tokens/s", "least", "most", "ratio", "NFE")
    found = table("configuration", *columns, right=columns)
    base = statistics.median(measured[_BASELINE].rates)
    for name, entry in measured.items():
        middle = statistics.median(entry.rates)
        found.add_row(
            name,
            f"{middle:,.0f}",
            f"{min(entry.rates):,.0f}",
            f"{max(entry.rates):,.0f}",
            f"{middle / base:.2f}x",
            f"{entry.nfe:.1f}",
        )
    return found


def _steps(measured: dict[str, Measured]) -> Table:
    columns = ("batch", "rows", "steps", "median ms", "least", "90 % under")
    found = table("steps of", *columns, right=columns)
    for name, entry in measured.items():
        for (batch, rows), seconds in sorted(entry.steps.items()):
            values = [f"{1e3 * value:.2f}" for value in _spread(seconds)]
            found.add_row(name, str(batch), str(rows), str(len(seconds)), *values)
    return found


def _spread(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, least, and what nine of ten stay under."""
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[0], ordered[int(0.9 * (len(ordered) - 1))]


def _subject(engine: Engine) -> dict[str, str]:
    return {
        "model": engine.name,
        "numerics": engine.numerics,
        "hardware": engine.hardware.id,
    }


def _json(
    engine: Engine, measured: dict[str, Measured], record: str | None, match: str
) -> dict[str, Any]:
    return {
        **_subject(engine),
        "record": record,
        "match": match,
        "configurations": {
            name: {
                "config": entry.config.model_dump(mode="json"),
                "tokens_per_second": entry.rates,
                "nfe": entry.nfe,
                "steps": [
                    {"batch": batch, "rows": rows, "seconds": seconds}
                    for (batch, rows), seconds in sorted(entry.steps.items())
                ],
            }
            for name, entry in measured.items()
        },
    }
