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
    cls=Group, no_args_is_help=True, help="List, show, export, import and verify tuning records."
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
    from dllmc.tuning_db import layers, list_records

    found = list_records(layers(db=db), task=task)
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
    from dllmc.tuning_db import find_record, layers

    item = find_record(layers(db=db), record)
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
    db: _Database = None,
) -> None:
    """Write records of the database into one file."""
    from dllmc.tuning_db import export_records, find_record

    store = _open(db)
    chosen = [find_record([store], name).record for name in records or ()] or store.records()
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
def verify(db: _Database = None) -> None:
    """Check every file of the database; exit status 1 if something is wrong."""
    from dllmc.tuning_db import verify as problems_of

    store = _open(db)
    problems = problems_of(store)
    for problem in problems:
        say(problem)
    if problems:
        say(f"{len(problems)} problems in {store.root}")
        raise typer.Exit(1)
    say(f"{store.root}: {len(store.records())} records, nothing wrong")


def _open(db: str | None) -> Store:
    from dllmc.tuning_db import Store, default_root

    return Store(db or default_root())


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
