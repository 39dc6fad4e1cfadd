"""`dllmc tune`: search, confirm and record how to decode a task on this machine."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllmc.cli._console import output, print_json, say
from dllmc.cli._subject import DEVICE_HELP, is_artifact, open_engine
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune import TuningReport


def command(
    art: Annotated[str, typer.Argument(metavar="ART", help="An artifact, or a model.")],
    task: Annotated[list[str], typer.Option(help="Name or JSONL file; may be repeated.")],
    margin: Annotated[float, typer.Option(help="Loss of right answers allowed.")] = 0.02,
    effort: Annotated[
        str | None, typer.Option(help="quick, standard or thorough: time and trials.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time per task: 90s, 10m, 1.5h; 10m by default.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What is to be fast: throughput, latency or first-block.")
    ] = "throughput",
    trials: Annotated[int | None, typer.Option(help="Configurations at most.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Prompts decoded together; 16 for throughput, else 1.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Instead of the task's.")] = None,
    seed: Annotated[int, typer.Option(help="Of search and prompts.")] = 0,
    space: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Narrow the search: commit=threshold,quota."),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="A configuration may take: 512MiB, 2GiB.")
    ] = None,
    max_compile: Annotated[
        str | None, typer.Option(help="Compiling its programs may take: 60s, 5m.")
    ] = None,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="The front of speed and quality instead of one pick."),
    ] = False,
    limit: Annotated[
        float | None, typer.Option(help="Loss that the front shows; five margins by default.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Where ART's weights were rounded: the same model as it was."),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Its own if left out.")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    db: Annotated[str | None, typer.Option(help="Where records go; the user's database.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Of the search: an SQLite file, journal:///PATH, postgresql://, grpc://HOST:PORT.",
        ),
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="Help with the search of the same command elsewhere.")
    ] = False,
    into_artifact: Annotated[
        bool, typer.Option("--into-artifact", help="Put the records into ART too.")
    ] = False,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="HTML page; in the database by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search how to decode TASK fast, and record what keeps its quality.

    A job that was interrupted goes on where it stopped when the same command is given again.
    """
    if into_artifact and not is_artifact(art):
        raise UsageError(
            f"`--into-artifact` needs an artifact, and `{art}` is a model; compile it"
        )
    if into_artifact and worker:
        raise UsageError(
            "`--worker` writes no record, so `--into-artifact` belongs to the command without it"
        )
    from dllmc import autotune
    from dllmc.tasks import get_task

    tasks = [get_task(name) for name in task]
    engine = open_engine(art, backend=backend, device=device, database=db)
    options: dict[str, Any] = {
        "margin": margin,
        "budget": autotune.FROM_EFFORT if budget is None else budget,
        "effort": effort,
        "objective": objective,
        "trials": trials,
        "db": db,
        "storage": storage,
        "batch": batch,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "space": _read_space(space or ()),
        "max_memory": max_memory,
        "max_compile": max_compile,
        "pareto": pareto,
        "limit": limit,
    }
    if reference is not None:
        options["reference"] = open_engine(reference, backend=backend, device=device, database=db)
    if worker:
        for one in tasks:
            say(str(autotune.help_tune(engine, one, **options)))
        return
    if report is not None and len(tasks) > 1:
        raise UsageError(f"`--report`={report!r} is one file for {len(tasks)} tasks; leave it out")
    reports = []
    for one in tasks:
        found = autotune.tune(engine, one, report=report, **options)
        reports.append(found)
        if not json:
            output().print(found.render())
        if into_artifact:
            put_into_artifact(art, found)
    if json:
        print_json([found.to_json() for found in reports])
    elif into_artifact:
        say(f"{sum(len(found.paths) for found in reports)} records put into {art}")


def put_into_artifact(path: str, report: TuningReport) -> None:
    """Write the records of `report` into the artifact at `path`."""
    from dllmc.artifact import add_records

    records = [json_module.loads(file.read_text(encoding="utf-8")) for file in report.paths]
    add_records(path, records)


def _read_space(words: Sequence[str]) -> dict[str, Any]:
    """`commit=threshold,quota` as the search space takes it.

    Raises:
        UsageError: A word is not KEY=VALUE.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise UsageError(f"`--space`={word!r} is not KEY=VALUE; write commit=threshold,quota")
        try:
            found[key] = json_module.loads(value)
        except ValueError:
            parts = value.split(",")
            found[key] = [_value(part) for part in parts] if len(parts) > 1 else value
    return found


def _value(word: str) -> Any:
    """A number where it is one."""
    try:
        return json_module.loads(word)
    except ValueError:
        return word
