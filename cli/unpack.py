"""`dllmc unpack`: the artifact in a file that `dllmc pack` wrote."""

from __future__ import annotations

from typing import Annotated

import typer

from dllmc.cli._console import say
from dllmc.spec import UsageError


def command(
    archive: Annotated[str, typer.Argument(help="File that `dllmc pack` wrote.")],
    out: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="PATH", help="ARCHIVE without .tar if left out."),
    ] = None,
) -> None:
    """Write the artifact in ARCHIVE as a folder, after every file was checked."""
    from dllmc.artifact.archive import unpack

    if out is None and not archive.endswith(".tar"):
        raise UsageError(f"`{archive}` does not end in .tar; say where it goes: -o model.dllm")
    path = unpack(archive, out or archive.removesuffix(".tar"))
    say(f"wrote {path}")
