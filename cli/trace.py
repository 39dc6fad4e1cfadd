"""`dllmc trace`: which token was committed at which evaluation."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from dllmc.cli import _decode
from dllmc.cli._config import HELP
from dllmc.cli._console import output, print_json, table
from dllmc.cli._decode import Request
from dllmc.cli.generate import print_choice
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from dllmc.cli._decode import Decoded
    from dllmc.runtime.state import CommitEvent

# From early to late; the 256-colour codes of a terminal.
_HEAT = (21, 27, 33, 39, 45, 49, 118, 190, 220, 214, 208, 202, 196)


def command(
    art: Annotated[str, typer.Argument(metavar="ART", help="An artifact, or a model.")],
    prompt: Annotated[str | None, typer.Argument()] = None,
    token_ids: Annotated[
        str | None, typer.Option("--token-ids", help="The prompt as ids: 5,17,3.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of the response.")] = None,
    config: Annotated[str, typer.Option(help=HELP)] = "auto",
    task: Annotated[str | None, typer.Option(help="Whose records to look for.")] = None,
    backend: Annotated[str | None, typer.Option(help="inductor or eager.")] = None,
    db: Annotated[str | None, typer.Option(help="The tuning database.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Decode PROMPT and show which token was committed at which evaluation."""
    given: list[str | list[int]] = [] if prompt is None else [prompt]
    given += [] if token_ids is None else [_decode.read_ids(token_ids)]
    if len(given) > 1:
        raise UsageError("give PROMPT or --token-ids, not both; one decode is traced at a time")
    request = Request(
        subject=art,
        prompts=given,
        config=config,
        task=task,
        max_new_tokens=max_new_tokens,
        backend=backend,
        database=db,
    )
    decoded = _decode.run(request)
    events: Sequence[CommitEvent] = decoded.traces[0]
    start = min(position for event in events for position in event.positions)
    if json:
        print_json(_json(decoded, events, start))
        return
    console = output()
    console.print(_events(decoded, events, start))
    console.print("\nthe response, coloured and numbered by evaluation:")
    console.print(_strip(decoded, events))
    print_choice(decoded.choice)


def _json(decoded: Decoded, events: Sequence[CommitEvent], start: int) -> dict[str, object]:
    steps = [
        {
            "nfe": event.nfe,
            "rows": list(event.rows),
            "positions": list(event.positions),
            "tokens": list(event.tokens),
        }
        for event in events
    ]
    return {
        "tokens": decoded.tokens[0],
        "nfe": decoded.nfe[0],
        "record": decoded.choice.record,
        "match": decoded.choice.match,
        "response_start": start,
        "trace": steps,
    }


def _events(decoded: Decoded, events: Sequence[CommitEvent], start: int) -> Table:
    found = table("evaluation", "rows", "committed", "at", "tokens", right=("rows", "committed"))
    for event in events:
        places = [position - start for position in event.positions]
        found.add_row(
            str(event.nfe),
            str(event.rows[1] - event.rows[0]),
            str(len(event.positions)),
            _ranges(places),
            Text(_words(decoded, event.tokens), overflow="ellipsis", no_wrap=True),
        )
    return found


def _strip(decoded: Decoded, events: Sequence[CommitEvent]) -> Text:
    when = {
        position: (event.nfe, token)
        for event in events
        for position, token in zip(event.positions, event.tokens, strict=True)
    }
    last, strip = events[-1].nfe, Text()
    # What stands after the end is not part of the response.
    shown = sorted(when.items())[: len(decoded.tokens[0])]
    for _, (nfe, token) in shown:
        heat = _HEAT[(nfe - 1) * (len(_HEAT) - 1) // max(last - 1, 1)]
        strip.append(_piece(decoded, token).strip() or "␣", style=f"black on color({heat})")
        strip.append(f"{nfe} ", style="dim")
    return strip


def _words(decoded: Decoded, tokens: Sequence[int]) -> str:
    """The tokens as text; one that repeats once, with its count."""
    found = []
    for token, repeated in itertools.groupby(tokens):
        count = len(list(repeated))
        word = _piece(decoded, token).strip() or "␣"
        found.append(word if count == 1 else f"{word} ×{count}")
    return " ".join(found)


def _piece(decoded: Decoded, token: int) -> str:
    tokenizer = decoded.engine.package.tokenizer
    if tokenizer is None:
        return str(token)
    text: str = tokenizer.decode([token], skip_special_tokens=False)
    return text


def _ranges(places: Sequence[int]) -> str:
    """`0-3 7` for 0, 1, 2, 3, 7."""
    found: list[list[int]] = []
    for place in sorted(places):
        if found and place == found[-1][-1] + 1:
            found[-1].append(place)
        else:
            found.append([place])
    return " ".join(f"{r[0]}" if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in found)
