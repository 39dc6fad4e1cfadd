"""`dllmc explain`: what the passes made of a model, and the least that its steps must cost."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllmc.cli._console import output, print_json, say, table
from dllmc.cli._subject import check_folder, is_artifact
from dllmc.cli.compile import compile_with_progress, pass_table
from dllmc.spec import StepPlan, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table

    from dllmc.artifact import Package
    from dllmc.compiler.explain import Explanation, Floor
    from dllmc.compiler.machine import Machine

_SIDES = ("before", "after")
_BESIDE = "beside"
# Rows of a block, and slots of a canvas where the model's own are more.
_BLOCK, _CANVAS = 32, 512
_BATCHES = (1, 16)


@dataclasses.dataclass(frozen=True)
class Found:
    """What is known of a compilation.

    Attributes:
        package: That came of it.
        operators: How often each operator occurs, of `before` (not of artifacts) and `after`.
        listings: The same graphs as text.
        explain: Of what was recorded, with the floors of plans; None for an artifact.
    """

    package: Package
    operators: Mapping[str, Mapping[str, int]]
    listings: Mapping[str, str]
    explain: Callable[[Sequence[StepPlan]], Explanation] | None = None


def command(
    subject: Annotated[str, typer.Argument(metavar="MODEL_OR_ART")],
    graph: Annotated[
        str | None,
        typer.Option(help="Print the graph before, after, or both beside with source lines."),
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write all of it as one page.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what each pass matched, the operators before and after, and roofline floors."""
    _check(subject, graph, html)
    found = _of_artifact(subject) if is_artifact(subject) else _of_model(subject)
    if graph == _BESIDE and found.explain is not None:
        say(found.explain(()).text())
        return
    if graph is not None:
        say(found.listings[graph])
        return
    import torch

    from dllmc.compiler.explain import floor
    from dllmc.compiler.machine import measure

    plans = _plans(found.package)
    floors = [floor(found.package, plan) for plan in plans]
    machine = measure(getattr(torch, found.package.dtype))
    if html is not None and found.explain is not None:
        found.explain(plans).save_html(html, (machine.bandwidth, machine.rate))
    if json:
        print_json(_json(found, floors, machine))
        return
    output().print(pass_table(found.package.report))
    say("")
    output().print(_operator_table(found.operators))
    say(f"\nroofline floors; this machine reads and multiplies at {machine} at best:")
    output().print(_floor_table(floors, machine))
    if html is not None:
        say(f"\nwrote {html}")


def _check(subject: str, graph: str | None, html: str | None) -> None:
    if graph is not None and graph not in (*_SIDES, _BESIDE):
        raise UsageError(f"`--graph`={graph!r} is unknown; {nearest(graph, (*_SIDES, _BESIDE))}")
    if is_artifact(subject) and (html is not None or graph not in (None, "after")):
        raise UsageError(
            f"`{subject}` is an artifact and holds the graph after the passes alone; give the "
            "model for the graph before them"
        )
    check_folder("--html", html)


def _of_artifact(path: str) -> Found:
    import dllmc
    from dllmc.compiler.explain import operators

    package = dllmc.load(path).package
    after = package.graphs["greedy"]
    return Found(package, {"after": operators(after)}, {"after": str(after.graph)})


def _of_model(model: str) -> Found:
    from dllmc.compiler.explain import Recorder, operators

    recorder = Recorder()
    compiled = compile_with_progress(model, backend="eager", after_pass=recorder)
    after = compiled.package.graphs["greedy"]
    return Found(
        compiled.package,
        {"before": recorder.before, "after": operators(after)},
        {"before": recorder.listing, "after": str(after.graph)},
        functools.partial(recorder.explanation, compiled),
    )


def _plans(package: Package) -> list[StepPlan]:
    """A refresh of the canvas and a step of a block, for one sequence and for several."""
    canvas = min(package.spec.max_length, _CANVAS)
    block = min(_BLOCK, canvas)
    return [
        StepPlan(batch=batch, rows=rows, head_rows=block, slots=canvas, dtype=package.dtype)
        for batch in _BATCHES
        for rows in dict.fromkeys((canvas, block))
    ]


def _json(found: Found, floors: Sequence[Floor], machine: Machine) -> dict[str, Any]:
    return {
        "passes": found.package.report,
        "operators": found.operators,
        "machine": dataclasses.asdict(machine),
        "floors": [
            {
                "plan": floor.plan.key,
                "flops": floor.flops,
                "bytes": floor.bytes,
                "seconds": floor.seconds(bandwidth=machine.bandwidth, rate=machine.rate),
            }
            for floor in floors
        ],
    }


def _operator_table(operators: Mapping[str, Mapping[str, int]]) -> Table:
    sides = [side for side in _SIDES if side in operators]
    found = table("operator", *sides, right=sides)
    for name in sorted({name for side in sides for name in operators[side]}):
        found.add_row(name, *(str(operators[side].get(name) or "") for side in sides))
    totals = (str(sum(operators[side].values())) for side in sides)
    found.add_section()
    found.add_row("all", *totals, style="bold")
    return found


def _floor_table(floors: Sequence[Floor], machine: Machine) -> Table:
    columns = ("batch", "rows", "slots", "MFLOP", "MB", "floor ms")
    found = table(*columns, "limited by", right=columns)
    for floor in floors:
        reading, computing = floor.bytes / machine.bandwidth, floor.flops / machine.rate
        sizes = (floor.plan.batch, floor.plan.rows, floor.plan.slots)
        found.add_row(
            *map(str, sizes),
            f"{floor.flops / 1e6:,.0f}",
            f"{floor.bytes / 1e6:.1f}",
            f"{1e3 * floor.seconds(bandwidth=machine.bandwidth, rate=machine.rate):.2f}",
            "reading" if reading > computing else "computing",
        )
    return found
