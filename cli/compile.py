"""`dllmc compile`: a model in, an artifact out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from dllmc.cli._console import output, print_json, progress, remark, say, table
from dllmc.cli._subject import DTYPES, load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table
    from torch.fx import GraphModule

    from dllmc.compiler import CompiledModel

_REMARKS = {
    "inductor": (
        "The artifact holds the rewritten graph and the weights. Until it can hold ahead-of-time "
        "programs, decoding with it compiles the graph first, which Inductor's cache shortens "
        "the second time."
    ),
    "eager": "The artifact holds the rewritten graph and the weights, and is run node by node.",
}


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="embedded, random:SHAPE, a checkpoint folder, ORG/NAME of the hub, or "
            "package.module:function, which returns a module and its DenoiserSpec."
        ),
    ],
    out: Annotated[str, typer.Option("--output", "-o", metavar="PATH", help="The artifact.")],
    backend: Annotated[str, typer.Option(help="inductor or eager.")] = "inductor",
    verify: Annotated[
        bool, typer.Option("--verify", help="Check each pass by execution in float64.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help=f"Of the weights: {', '.join(DTYPES)}; as stored.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile MODEL into an artifact that any machine of this kind can load."""
    from dllmc.artifact.files import check_replaceable

    check_replaceable(out)
    compiled = compile_with_progress(model, backend=backend, verify=verify, dtype=dtype)
    path = compiled.save(out)
    package = compiled.package
    if json:
        facts = {
            "artifact": str(path),
            "model": package.name,
            "backend": package.backend,
            "dtype": package.dtype,
            "weights_sha256": package.weights_sha256,
            "passes": [dataclasses.asdict(result) for result in compiled.report],
        }
        print_json(facts)
        return
    output().print(pass_table([dataclasses.asdict(result) for result in compiled.report]))
    verified = ", every pass verified in float64" if verify else ""
    say(f"\nwrote {path}: {package.name}, {package.dtype}{verified}")
    remark(_REMARKS[package.backend])


def compile_with_progress(
    model: str,
    *,
    backend: str,
    verify: bool = False,
    dtype: str | None = None,
    after_pass: Callable[[str, GraphModule], None] | None = None,
) -> CompiledModel:
    """Compile `model`, showing which pass runs; `after_pass` gets its name and the graph."""
    from dllmc.compiler import compile_model
    from dllmc.passes import pass_types
    from dllmc.runtime import Engine

    with progress() as bar:
        line = bar.add_task(f"loading {model}", total=None)
        loaded = load_model(model, dtype)
        # Lowering runs once per variant of the graph; capture is reported as one more pass.
        total = len(pass_types()) + 2
        what = "verifying, then rewriting" if verify else "capturing"
        bar.update(line, description=what, total=total)

        def show(name: str, graph: GraphModule) -> None:
            bar.update(line, description=name, advance=1)
            if after_pass is not None:
                after_pass(name, graph)

        return compile_model(
            loaded,
            engine_of=Engine,
            backend=backend,
            verify=verify,
            before_and_after=show,
        )


def pass_table(results: Sequence[Mapping[str, object]]) -> Table:
    """What each pass did."""
    numbers = ("matched", "expected", "nodes before", "after", "ms")
    found = table("pass", *numbers, "", right=numbers)
    for result in results:
        expected, seconds = result["expected"], result["seconds"]
        assert isinstance(seconds, float)
        found.add_row(
            str(result["name"]),
            str(result["matched"]),
            "any" if expected is None else str(expected),
            str(result["nodes_before"]),
            str(result["nodes_after"]),
            f"{seconds * 1e3:.1f}",
            str(result["skipped_because"] or ""),
        )
    return found
