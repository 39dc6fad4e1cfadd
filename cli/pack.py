"""`dllmc pack`: an artifact as one file."""

from __future__ import annotations

from typing import Annotated

import typer

from dllmc.cli._console import say


def command(
    artifact: Annotated[str, typer.Argument(help="Folder that `dllmc compile` wrote.")],
    out: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="ARTIFACT.tar if left out."),
    ] = None,
) -> None:
    """Write ARTIFACT as one file, of which the same artifact gives the same bytes."""
    from dllmc.artifact.archive import pack

    path = pack(artifact, out or f"{artifact.rstrip('/')}.tar")
    say(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB")
