"""`dllmc db`: what stands in a tuning database."""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Annotated

import typer

from dllmc.cli._config import describe
from dllmc.cli._console import output, print_json, say, table
from dllmc.cli._group import Group

if TYPE_CHECKING:
    from dllmc.tuning_db import Listed, Store

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    help="List, show, compare, export, import, merge, prune and verify tuning records.",
)

_ID_LENGTH = 24
_Database = Annotated[
    str | None, typer.Option("--db", metavar="PATH", help="The database; the user's by default.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    db: _Database = None,
    task: Annotated[str | None, typer.Option(help="Only records of this task.")] = None,
    json: _Json = False,
) -> None:
    """List records, those that come with dllmc included."""
    from dllmc.tuning_db import list_records

    found = list_records(_layers(db), task=task)
    if json:
        print_json([{"layer": item.layer, **item.record.to_json()} for item in found])
        return
    columns = ("batch", "tokens", "speed", "exact", "reference")
    shown = table("record", "task", "status", *columns, "layer", "hardware", right=columns)
    shown.columns[0].no_wrap = True
    shown.columns[0].min_width = _ID_LENGTH  # whole, to be copied
    for item in found:
        shown.add_row(*_row(item))
    output().print(shown if found else "no records; `dllmc tune` makes them")


@app.command()
def show(
    record: Annotated[str, typer.Argument(help="Id, or its beginning.")],
    db: _Database = None,
    json: _Json = False,
) -> None:
    """Show one record in full."""
    from dllmc.policies.config import DecodingConfig
    from dllmc.tuning_db import find_record

    item = find_record(_layers(db), record)
    if json:
        print_json(item.record.to_json())
        return
    say(f"{item.path} ({item.layer})", style="dim")
    say(describe(DecodingConfig(**item.record.config)))
    output().print_json(json_module.dumps(item.record.to_json()))


@app.command()
def export(
    path: Annotated[str, typer.Argument(help="A new JSON file.")],
    records: Annotated[list[str] | None, typer.Argument(help="Ids; all by default.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only records of this status: confirmed, safe, ...")
    ] = None,
    db: _Database = None,
) -> None:
    """Write records of the database into one file."""
    from dllmc.tuning_db import export_records, find_record

    store = _open(db)
    chosen = [find_record([store], name).record for name in records or ()] or store.records()
    chosen = [record for record in chosen if status in (None, record.status)]
    count = export_records(chosen, path)
    say(f"wrote {count} records to {path}")


@app.command("import")
def import_(
    path: Annotated[str, typer.Argument(help="An exported file, a record, or a database.")],
    db: _Database = None,
) -> None:
    """Take records into the database; of two of the same id the newer job's is kept."""
    from dllmc.tuning_db import import_records

    store = _open(db)
    done = import_records(store, path)
    say(f"{len(done.written)} records written to {store.root}, {len(done.kept)} kept")
    for problem in done.skipped:
        say(f"skipped: {problem}")


@app.command()
def diff(
    one: Annotated[str, typer.Argument(help="Id, or its beginning.")],
    other: Annotated[str, typer.Argument(help="Id, or its beginning.")],
    db: _Database = None,
    json: _Json = False,
) -> None:
    """Show in what two records differ."""
    from dllmc.tuning_db import difference, find_record

    layers = _layers(db)
    found = difference(find_record(layers, one).record, find_record(layers, other).record)
    if json:
        print_json([item._asdict() for item in found])
        return
    shown = table("", "one", "other")
    for item in found:
        shown.add_row(item.name, *("" if v is None else str(v) for v in item[1:]))
    output().print(shown if found else "the same")


@app.command()
def merge(
    sources: Annotated[list[str], typer.Argument(help="Folders of other databases.")],
    db: _Database = None,
) -> None:
    """Take records and evidence of other databases into this one; nothing is lost."""
    from pathlib import Path

    from dllmc.spec import TuningDatabaseError
    from dllmc.tuning_db import Store
    from dllmc.tuning_db import merge as merge_into

    store = _open(db)
    for name in sources:
        if not Path(name).is_dir():
            raise TuningDatabaseError(f"there is no database at `{name}`; give its folder")
    for name in sources:
        done = merge_into(store, Store(name, name="source", read_only=True))
        say(
            f"{name}: {len(done.records.written)} records, {done.outcomes} answers, {done.pairs} "
            f"timings, {done.plans} latencies and verdicts of {done.verdicts} jobs were new"
        )
        for problem in done.records.skipped:
            say(f"skipped: {problem}")


@app.command()
def prune(
    db: _Database = None,
    delete: Annotated[bool, typer.Option("--delete", help="Do not keep them aside.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Move aside what no lookup uses: damaged, rejected and outdated records."""
    from dllmc.tuning_db import prune as prune_store

    store = _open(db)
    done = prune_store(store, delete=delete, dry_run=dry_run)
    for path, reason in done.files:
        say(f"{path} {reason}")
    what = "would go" if dry_run else "deleted" if delete else f"moved to {done.folder}"
    say(f"{len(done.files)} files {what}" if done.files else "nothing to prune")


@app.command()
def why(
    art: Annotated[str, typer.Argument(metavar="ART", help="An artifact, or a model.")],
    task: Annotated[str | None, typer.Option(help="Name of the task.")] = None,
    batch: Annotated[int, typer.Option(help="Prompts decoded together.")] = 16,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of the response.")] = None,
    backend: Annotated[str | None, typer.Option(help="inductor or eager.")] = None,
    db: _Database = None,
    json: _Json = False,
) -> None:
    """Say which record is in force for ART, and what would make it fit better."""
    from dllmc.cli._subject import open_engine, response_length, task_name
    from dllmc.runtime.records import choose_record

    engine = open_engine(art, backend=backend, database=db)
    length = max_new_tokens or response_length(engine)
    found = choose_record(engine, task=task_name(task), batch=batch, max_new_tokens=length)
    if json:
        print_json(
            {
                "match": found.match,
                "record": found.record,
                "config": found.config.model_dump(mode="json"),
                "reasons": list(found.reasons),
            }
        )
        return
    say(f"{found.match}{'' if found.record is None else f' {found.record}'}")
    say(describe(found.config))
    for reason in found.reasons:
        say(f"  {reason}", style="dim")


@app.command()
def verify(
    db: _Database = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="ART", help="Decode a sample of each record of its weights again."),
    ] = None,
    sample: Annotated[int, typer.Option(help="Prompts per record, with --model.")] = 16,
    backend: Annotated[str | None, typer.Option(help="inductor or eager.")] = None,
) -> None:
    """Check every file of the database; exit status 1 if something is wrong."""
    from dllmc.tuning_db import verify as problems_of

    store = _open(db)
    problems = problems_of(store)
    for problem in problems:
        say(problem)
    if model is not None:
        from dllmc.autotune.recheck import recheck
        from dllmc.cli._subject import open_engine

        for checked in recheck(open_engine(model, backend=backend), store, sample=sample):
            say(str(checked))
            problems += [str(checked)] if checked.problem is not None else []
    if problems:
        say(f"{len(problems)} problems in {store.root}")
        raise typer.Exit(1)
    say(f"{store.root}: {len(store.records())} records, nothing wrong")


def _open(db: str | None) -> Store:
    from dllmc.tuning_db import Store, default_root

    return Store(db or default_root())


def _layers(db: str | None) -> list[Store]:
    """The databases that can be read; why others cannot goes to standard error."""
    from dllmc.tuning_db import Store, layers

    found = layers(db=db)
    for layer in found:
        if not isinstance(layer, Store):
            say(layer.problem, style="yellow")
    return [layer for layer in found if isinstance(layer, Store)]


def _row(item: Listed) -> list[str]:
    record = item.record
    speed, quality, workload = record.speed, record.quality, record.key.workload
    return [
        record.id,
        str(workload.task),
        record.status,
        str(record.applies_to.batch),
        str(record.applies_to.max_new_tokens),
        "" if speed is None else f"{speed.ratio:.2f}x",
        "" if quality is None else f"{quality.value:.3f}",
        "" if quality is None else f"{quality.reference_value:.3f}",
        item.layer,
        record.key.hardware.id,
    ]
