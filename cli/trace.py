"""`dllmc trace`: which token was committed at which evaluation."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllmc.cli import _decode
from dllmc.cli._config import AUTO, HELP
from dllmc.cli._console import print_json, say
from dllmc.cli._decode import Request
from dllmc.cli._subject import DEVICE_HELP, check_folder
from dllmc.cli.generate import print_choice
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from dllmc.cli._decode import Decoded
    from dllmc.runtime import Trace


def command(
    subject: Annotated[
        str, typer.Argument(metavar="ART|FILE", help="An artifact, a model, or a saved trace.")
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT|FILE", help="What to decode; or a trace to compare FILE with."
        ),
    ] = None,
    token_ids: Annotated[
        str | None, typer.Option("--token-ids", help="The prompt as ids: 5,17,3.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of the response.")] = None,
    config: Annotated[str | None, typer.Option(help=HELP, show_default="auto")] = None,
    task: Annotated[str | None, typer.Option(help="Whose records to look for.")] = None,
    backend: Annotated[str | None, typer.Option(help="inductor or eager.")] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    db: Annotated[str | None, typer.Option(help="The tuning database.")] = None,
    auxiliary: Annotated[
        str | None,
        typer.Option(help="The causal model that `apd` and `specdiff` ask: ART, or a model."),
    ] = None,
    save: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep the trace as JSON lines.")
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="PAGE", help="Write it as one page with a slider.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Decode PROMPT and show which token was committed at which evaluation.

    Of a FILE that --save wrote, show that; of two, say where they differ first, and exit with 1.
    """
    check_folder("--save", save)
    check_folder("--html", html)
    options = {
        "--token-ids": token_ids,
        "--max-new-tokens": max_new_tokens,
        "--config": config,
        "--task": task,
        "--backend": backend,
        "--device": device,
        "--db": db,
        "--auxiliary": auxiliary,
    }
    if _is_file(subject):
        _refuse(subject, options)
        if prompt is not None:
            _refuse(subject, {"--save": save, "--html": html}, "of one trace and not of two")
            raise typer.Exit(_compare(subject, prompt, json))
        _refuse(subject, {"--save": save}, "for a decode, and this is saved")
        trace, decoded = _load(subject), None
    else:
        decoded = _decoded(subject, prompt, options)
        trace = decoded.traces[0]
    _write(trace, save, html)
    if json:
        print_json(_json(trace, decoded))
        return
    _show(trace, decoded)
    for path in filter(None, (save, html)):
        say(f"wrote {path}")


def _is_file(subject: str) -> bool:
    """Whether `subject` is a saved trace: artifacts and checkpoints are folders."""
    return subject.endswith(".jsonl") or Path(subject).is_file()


def _refuse(subject: str, options: dict[str, Any], why: str = "for a decode") -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"`{name}` is {why}, and `{subject}` is a saved trace; leave it out")


def _load(path: str) -> Trace:
    from dllmc.runtime import Trace

    return Trace.load(path)


def _compare(one: str, other: str, as_json: bool) -> int:
    from dllmc.cli._trace_compare import Comparison

    comparison = Comparison((one, other), (_load(one), _load(other)))
    if as_json:
        print_json(comparison.as_json())
    else:
        comparison.show()
    return int(comparison.difference is not None)


def _decoded(subject: str, prompt: str | None, options: dict[str, Any]) -> Decoded:
    token_ids = options["--token-ids"]
    given: list[str | list[int]] = [] if prompt is None else [prompt]
    given += [] if token_ids is None else [_decode.read_ids(token_ids)]
    if len(given) > 1:
        raise UsageError("give PROMPT or --token-ids, not both; one decode is traced at a time")
    request = Request(
        subject=subject,
        prompts=given,
        config=options["--config"] or AUTO,
        task=options["--task"],
        max_new_tokens=options["--max-new-tokens"],
        backend=options["--backend"],
        device=options["--device"],
        database=options["--db"],
        auxiliary=options["--auxiliary"],
    )
    return _decode.run(request)


def _write(trace: Trace, save: str | None, html: str | None) -> None:
    if save is not None:
        trace.save(save)
    if html is not None:
        from dllmc.artifact import write_atomically
        from dllmc.cli._trace_page import page

        write_atomically(Path(html), page(trace))


def _json(trace: Trace, decoded: Decoded | None) -> dict[str, object]:
    _, *steps = trace.lines()
    found: dict[str, object] = {"tokens": trace.tokens, "nfe": len(trace)}
    if decoded is not None:
        found |= {"record": decoded.choice.record, "match": decoded.choice.match}
    return found | {"response_start": trace.response_start, "trace": steps}


def _show(trace: Trace, decoded: Decoded | None) -> None:
    from dllmc.cli import _trace_view, _trace_words

    _trace_view.show(trace)
    if decoded is not None:
        print_choice(decoded.choice)
        return
    say(f"{_trace_words.summary(trace)}; {json_text.dumps(trace.config, ensure_ascii=False)}")
