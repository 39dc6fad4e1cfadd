"""`dllmc retarget`: a record for this machine from what was learnt on another."""

from __future__ import annotations

from typing import Annotated

import typer

from dllmc.cli._console import output, print_json
from dllmc.cli._subject import DEVICE_HELP, open_engine


def command(
    art: Annotated[str, typer.Argument(metavar="ART", help="An artifact, or a model.")],
    task: Annotated[list[str], typer.Option(help="Name or JSONL file; may be repeated.")],
    margin: Annotated[float, typer.Option(help="Loss of right answers allowed.")] = 0.02,
    budget: Annotated[str, typer.Option(help="Time per task: 60s, 5m.")] = "60s",
    batch: Annotated[int, typer.Option(help="Prompts decoded together.")] = 16,
    max_new_tokens: Annotated[int | None, typer.Option(help="Instead of the task's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the prompts, as of the tuning job.")] = 0,
    backend: Annotated[str | None, typer.Option(help="Its own if left out.")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    db: Annotated[str | None, typer.Option(help="The database with the evidence.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how to decode TASK fast on this machine, without searching again.

    Measures how long the steps take here that prompts needed in an earlier `dllmc tune`, wherever
    that ran, and picks the fastest configuration that it confirmed.
    """
    from dllmc import autotune
    from dllmc.tasks import get_task

    tasks = [get_task(name) for name in task]
    engine = open_engine(art, backend=backend, device=device, database=db)
    reports = []
    for one in tasks:
        report = autotune.retarget(
            engine,
            one,
            margin=margin,
            budget=budget,
            db=db,
            batch=batch,
            max_new_tokens=max_new_tokens,
            seed=seed,
        )
        reports.append(report)
        if not json:
            output().print("\n".join(report.lines()), markup=False, highlight=False)
    if json:
        print_json([report.to_json() for report in reports])
