"""The `dllmc` command and its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from dllmc.cli import (
    bench,
    compile,
    db,
    doctor,
    explain,
    export_onnx,
    generate,
    inspect,
    pack,
    rebuild,
    retarget,
    sign,
    trace,
    tune,
    unpack,
)
from dllmc.cli._group import Group

app = typer.Typer(
    cls=Group,
    name="dllmc",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print(importlib.metadata.version("dllmc"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """A compiler and auto-tuner for diffusion language models."""


_COMMANDS = (compile, rebuild, export_onnx, inspect, sign, pack, unpack, generate, tune, retarget)
for module in (*_COMMANDS, bench, explain, trace, doctor):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
app.add_typer(db.app, name="db")


def main() -> None:
    """Run the `dllmc` command."""
    app()
