"""`dllmc export-onnx`: a model's steps as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dllmc.cli._console import output, print_json, progress, say, table
from dllmc.cli._subject import is_artifact, load_model
from dllmc.cli.compile import read_configs
from dllmc.spec import UsageError


def command(
    model: Annotated[str, typer.Argument(help="An artifact, or a model as for `compile`.")],
    out: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="A new folder.")],
    plans: Annotated[
        list[str] | None,
        typer.Option(
            "--plans",
            metavar="CONFIG",
            help="A way to decode whose steps are exported, as for `generate --config`; "
            "repeatable. Left out: SAFE, SPEED_BASELINE and shipped records.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of ONNX's operators: 23 or 24.")] = 23,
    fix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE=N",
            help="Make a size static: batch, rows, head_rows, or slots, scratch slots included; "
            "repeatable.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write the steps of MODEL into the folder PATH, with caches going in and out."""
    import dllmc
    from dllmc.artifact import load_package
    from dllmc.artifact.files import appearing, check_replaceable, save_exports
    from dllmc.runtime.build import default_configs, with_exports

    fixed = read_sizes(fix or [])
    configs = None if plans is None else read_configs(plans)
    check_replaceable(out)
    with progress() as bar:
        line = bar.add_task(f"opening {model}", total=None)
        if is_artifact(model):
            package = load_package(model)
        else:
            package = dllmc.compile(load_model(model), backend="eager").package
        made = with_exports(
            package,
            default_configs(package) if configs is None else configs,
            opset=opset,
            fixed=fixed,
            tell=lambda what: bar.update(line, description=what),
        )
    with appearing(Path(out)) as folder:
        save_exports(made, folder)
    assert made.exports is not None
    listing = made.exports.listing
    if json:
        print_json({"folder": out, **listing.model_dump(mode="json")})
        return
    shown = table("model", "inputs", "outputs", "caches", right=("inputs", "outputs", "caches"))
    for program in listing.programs:
        counts = (len(program.takes), len(program.gives), len(program.caches))
        shown.add_row(program.file, *map(str, counts))
    output().print(shown)
    say(f"\nwrote {out}: opset {listing.opset}, with weights.safetensors and programs.json")


def read_sizes(texts: list[str]) -> dict[str, int]:
    """Sizes as `--fix` gives them.

    Raises:
        UsageError: One is no number.
    """
    found = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not size.isdecimal():
            raise UsageError(f"`--fix` {text!r} is no size; write it as in --fix batch=1")
        found[name] = int(size)
    return found
