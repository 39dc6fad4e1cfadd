"""`dllmc explain`: what the passes made of a model."""

from __future__ import annotations

import dataclasses
import inspect
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllmc.cli._console import output, print_json, say, table
from dllmc.cli._subject import is_artifact
from dllmc.cli.compile import compile_with_progress, pass_table
from dllmc.spec import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table
    from torch.fx import Graph

_SIDES = ("before", "after")


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What is known of a compilation.

    Attributes:
        passes: Report of each pass.
        operators: How often each operator occurs, of `before` (not of artifacts) and `after`.
        listings: The same graphs as text.
    """

    passes: Sequence[Mapping[str, Any]]
    operators: Mapping[str, Mapping[str, int]]
    listings: Mapping[str, str]


def command(
    subject: Annotated[str, typer.Argument(metavar="MODEL_OR_ART")],
    graph: Annotated[str | None, typer.Option(help="Print the graph before or after.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what each pass matched, and the operators before and after."""
    if graph is not None and graph not in _SIDES:
        raise UsageError(f"`--graph`={graph!r} is unknown; {nearest(graph, _SIDES)}")
    if graph == "before" and is_artifact(subject):
        raise UsageError(
            f"`{subject}` is an artifact and holds the graph after the passes alone; give the "
            "model for the graph before them"
        )
    found = _of_artifact(subject) if is_artifact(subject) else _of_model(subject)
    if json:
        print_json({"passes": found.passes, "operators": found.operators})
        return
    if graph is not None:
        say(found.listings[graph])
        return
    output().print(pass_table(found.passes))
    say("")
    output().print(_operator_table(found.operators))


def _of_artifact(path: str) -> Explanation:
    import dllmc

    package = dllmc.load(path).package
    after = package.graphs["greedy"].graph
    return Explanation(package.report, {"after": _count(after)}, {"after": str(after)})


def _of_model(model: str) -> Explanation:
    operators: dict[str, Mapping[str, int]] = {}
    listings: dict[str, str] = {}

    def keep(name: str, module: Any) -> None:
        if name == "capture":
            operators["before"], listings["before"] = _count(module.graph), str(module.graph)

    compiled = compile_with_progress(model, backend="eager", after_pass=keep)
    after = compiled.package.graphs["greedy"].graph
    operators["after"], listings["after"] = _count(after), str(after)
    passes = [dataclasses.asdict(result) for result in compiled.report]
    return Explanation(passes, operators, listings)


def _count(graph: Graph) -> dict[str, int]:
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    # Functions of Python, such as `getitem`, have their address in their text.
    return dict(Counter(t.__name__ if inspect.isbuiltin(t) else str(t) for t in targets))


def _operator_table(operators: Mapping[str, Mapping[str, int]]) -> Table:
    sides = [side for side in _SIDES if side in operators]
    found = table("operator", *sides, right=sides)
    for name in sorted({name for side in sides for name in operators[side]}):
        found.add_row(name, *(str(operators[side].get(name, "")) for side in sides))
    totals = (str(sum(operators[side].values())) for side in sides)
    found.add_section()
    found.add_row("all", *totals, style="bold")
    return found
