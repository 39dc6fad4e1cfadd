"""`dllmc sign`: say who made an artifact."""

from __future__ import annotations

from typing import Annotated

import typer

from dllmc.cli._console import say


def command(
    artifact: Annotated[str, typer.Argument(help="Folder that `dllmc compile` wrote.")],
    key: Annotated[
        str, typer.Option("--key", metavar="PEM", help="Elliptic-curve private key.")
    ] = "",
) -> None:
    """Sign ARTIFACT; `inspect --public-key` and `dllmc.load(path, public_key=...)` check it."""
    from dllmc.artifact.signature import sign
    from dllmc.spec import UsageError

    if not key:
        raise UsageError("`--key` is missing; give the file of a private key: --key private.pem")
    say(f"wrote {sign(artifact, key)}")
