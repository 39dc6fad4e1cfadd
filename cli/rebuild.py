"""`dllmc rebuild`: the ahead-of-time programs of an artifact, for another machine."""

from __future__ import annotations

from typing import Annotated

import typer

from dllmc.cli._console import progress, say

# The same as `native`, from where the command is given.
_HERE = "here"


def command(
    artifact: Annotated[str, typer.Argument(help="Written by `dllmc compile --backend aot`.")],
    out: Annotated[
        str | None, typer.Option("--output", "-o", metavar="PATH", help="In place if left out.")
    ] = None,
    target: Annotated[str, typer.Option(help="here, or x86-64-v3.")] = _HERE,
) -> None:
    """Compile the programs of ARTIFACT again, on this machine and without the model's code."""
    from dllmc.artifact import load_package, save_package
    from dllmc.artifact.files import check_replaceable
    from dllmc.runtime.build import rebuilt

    destination = out or artifact
    check_replaceable(destination)
    package = load_package(artifact)
    with progress() as bar:
        line = bar.add_task("reading", total=None)

        def tell(what: str) -> None:
            bar.update(line, description=what)

        made = rebuilt(package, target="native" if target == _HERE else target, tell=tell)
    path = save_package(made, destination)
    assert made.binaries is not None
    listing = made.binaries.listing
    say(f"wrote {path}: {len(listing.programs)} programs for {listing.target.isa}")
