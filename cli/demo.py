"""`make demo`: compile the embedded model, tune it on two tasks, deploy it, and generate."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dllmc.cli._config import describe
from dllmc.cli._console import output, remark, say, status, table
from dllmc.cli._group import INTERRUPTED, report_error
from dllmc.cli.tune import put_into_artifact
from dllmc.spec import DllmcError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from dllmc.autotune import TuningReport
    from dllmc.runtime import Engine
    from dllmc.tasks import Task

# Of opposite needs: tokens that the prompt alone decides, and tokens that must agree.
TASKS = ("copy", "words-to-sentence")
# The answers of both have at most 13 tokens.
_RESPONSE = 16
_SHOWN_PROMPTS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    begun = time.perf_counter()
    try:
        run(_options(arguments))
    except KeyboardInterrupt:
        print("interrupted; run it again to go on from here", file=sys.stderr)
        return INTERRUPTED
    except DllmcError as error:
        return report_error(error)
    remark(f"{time.perf_counter() - begun:.0f} s in all")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dllmc.cli.demo", description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--budget", default="75s", help="of tuning, per task")
    parser.add_argument("--trials", type=int, help="of tuning, per task")
    parser.add_argument("--margin", type=float, default=0.02)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=_RESPONSE)
    parser.add_argument("--folder", type=Path, default=Path("build"))
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """The whole way of a model: compile, tune, compare, deploy, generate."""
    from dllmc.tasks import get_task

    tasks = [get_task(name) for name in options.tasks]
    say("compile", style="bold")
    artifact, database = options.folder / "embedded.dllm", options.folder / "demo-db"
    engine = _compile(options, artifact)
    reports = []
    for task in tasks:
        say(f"\ntune `{task.name}`, {options.budget} at most", style="bold")
        reports.append(_tune(options, engine, task, database))
        put_into_artifact(str(artifact), reports[-1])
    say("\nthe tasks compared", style="bold")
    output().print(_comparison(reports))
    say(f"\nrecords, written to {database} and into {artifact}")
    for report in reports:
        say(f"  {report.record}  {report.task}, {report.status}: {describe(report.config)}")
    say("\na fresh process loads the artifact and generates", style="bold")
    for task in tasks:
        _generate(artifact, task, options.max_new_tokens)


def _compile(options: argparse.Namespace, artifact: Path) -> Engine:
    import dllmc
    from dllmc.cli.compile import compile_with_progress

    compiled = compile_with_progress(options.model, backend=options.backend, verify=True)
    compiled.save(artifact)
    before, after = compiled.report[0].nodes_before, compiled.package.graphs["greedy"].graph.nodes
    say(f"{len(compiled.report)} passes, each verified in float64: {before} -> {len(after)} nodes")
    say(f"wrote {artifact}")
    engine = dllmc.load(artifact)
    begun = time.perf_counter()
    with status("compiling the step for this machine"):
        for count in (1, 2):  # batches of one have a program of their own
            engine.generate(["copy: a"] * count, config=dllmc.SPEED_BASELINE)
    say(f"first steps compiled in {time.perf_counter() - begun:.0f} s ({engine.execution})")
    return engine


def _tune(options: argparse.Namespace, engine: Engine, task: Task, database: Path) -> TuningReport:
    from dllmc.autotune import tune

    report = tune(
        engine,
        task,
        margin=options.margin,
        budget=options.budget,
        trials=options.trials,
        db=database,
        batch=options.batch,
        max_new_tokens=options.max_new_tokens,
    )
    counts = ", ".join(f"{count} {name}" for name, count in report.trials.items())
    say(f"{counts} in {report.spent:.0f} s")
    if report.reason is not None:
        say(f"nothing was confirmed, SAFE ships: {report.reason}")
    return report


def _comparison(reports: Sequence[TuningReport]) -> Table:
    numbers = ("exact", "NFE", "tokens/s", "x reference", "x baseline")
    found = table("task", "configuration", *numbers, "decoded by", right=numbers)
    for report in reports:
        for row in report.rows:
            found.add_row(
                f"{report.task}, {row.n} {row.split} prompts" if row is report.rows[0] else "",
                row.name,
                f"{row.exact_match:.3f}",
                f"{row.nfe_mean:.1f}",
                f"{row.tokens_per_second:,.0f}",
                f"{row.tokens_per_second / report.rows[0].tokens_per_second:.1f}",
                f"{row.ratio:.2f}",
                describe(row.config),
                style="bold" if row.name == "tuned" else None,
            )
        found.add_section()
    return found


def _generate(artifact: Path, task: Task, length: int) -> None:
    """Let a process that knows the artifact alone answer prompts of `task`."""
    prompts = [sample.prompt for sample in task.samples("test", _SHOWN_PROMPTS, seed=1)]
    options = ["--task", task.name, "--max-new-tokens", str(length)]
    words = ["generate", str(artifact), *prompts, *options]
    environment = os.environ | {"DLLMC_TUNING_DB": str(artifact.parent / "no-database")}
    say(f"dllmc {shlex.join(words)}", style="dim")
    with status("waiting for it"):
        ran = subprocess.run(
            [sys.executable, "-m", "dllmc.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode:
        raise DllmcError(f"`dllmc generate {artifact}` failed: {ran.stderr.strip()}")
    say(ran.stdout)


if __name__ == "__main__":
    sys.exit(main())
