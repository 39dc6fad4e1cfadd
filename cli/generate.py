"""`dllmc generate`: prompts in, responses out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from dllmc.cli import _decode
from dllmc.cli._config import HELP, describe
from dllmc.cli._console import output, print_json, say, table
from dllmc.cli._decode import Conversation, Request
from dllmc.cli._subject import DEVICE_HELP
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from dllmc.cli._decode import Decoded, Prompt
    from dllmc.runtime.records import Choice


def command(
    art: Annotated[str, typer.Argument(metavar="ART", help="An artifact, or a model.")],
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...")] = None,
    token_ids: Annotated[
        list[str] | None, typer.Option("--token-ids", help="A prompt as ids: 5,17,3.")
    ] = None,
    chat: Annotated[
        list[str] | None,
        typer.Option("--chat", help="A user's message, by the model's chat template."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="What each --chat is told first.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Length of the response.")] = None,
    config: Annotated[str, typer.Option(help=HELP)] = "auto",
    task: Annotated[str | None, typer.Option(help="Whose records to look for.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Instead of the config's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the config's.")] = None,
    stream: Annotated[int, typer.Option(help="Noise stream of the first prompt.")] = 0,
    engine: Annotated[str, typer.Option(help="runtime, or reference: the oracle.")] = "runtime",
    backend: Annotated[
        str | None, typer.Option(help="inductor or eager; the artifact's, else eager.")
    ] = None,
    device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    db: Annotated[str | None, typer.Option(help="The tuning database.")] = None,
    auxiliary: Annotated[
        str | None,
        typer.Option(help="The causal model that `apd` and `specdiff` ask: ART, or a model."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Apply records of this level too: other-task, family."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="Records tuned for throughput, latency or first-block.")
    ] = "throughput",
    strict: Annotated[
        bool, typer.Option("--strict", help="A record's knob that nothing takes up is an error.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Decode each PROMPT with the tuning record that fits best, or as CONFIG says."""
    if system is not None and not chat:
        raise UsageError(f"`--system`={system!r} goes with --chat; give --chat TEXT, or leave it")
    given: list[Prompt] = [*(prompts or ()), *map(_decode.read_ids, token_ids or ())]
    given += [Conversation(text, system) for text in chat or ()]
    request = Request(
        subject=art,
        prompts=given,
        config=config,
        task=task,
        max_new_tokens=max_new_tokens,
        overrides={
            k: v for k, v in (("temperature", temperature), ("seed", seed)) if v is not None
        },
        stream=stream,
        backend=backend,
        device=device,
        database=db,
        auxiliary=auxiliary,
        allow=allow or (),
        objective=objective,
        strict=strict,
    )
    decoded = _decode.run(request, engine)
    if json:
        values = [_json(decoded, index) for index in range(len(decoded.tokens))]
        print_json(values if len(values) > 1 else values[0])
        return
    console = output()
    for index, prompt in enumerate(request.prompts):
        _print_answer(console, prompt, decoded, index)
    print_choice(decoded.choice)


def _json(decoded: Decoded, index: int) -> dict[str, Any]:
    helped = decoded.auxiliary_nfe
    return {
        "tokens": decoded.tokens[index],
        "nfe": decoded.nfe[index],
        **({} if helped is None else {"auxiliary_nfe": helped[index]}),
        "record": decoded.choice.record,
        "match": decoded.choice.match,
        "text": decoded.text(index),
    }


def _print_answer(console: Console, prompt: Prompt, decoded: Decoded, index: int) -> None:
    tokens, nfe = decoded.tokens[index], decoded.nfe[index]
    text = decoded.text(index)
    line = table("", "")
    line.show_header = False
    line.add_row("[dim]prompt", Text(str(prompt)))
    line.add_row("[dim]answer", Text(str(tokens) if text is None else text, style="bold"))
    told = f"{len(tokens)} tokens in {nfe} evaluation{'s'[: nfe != 1]}"
    if decoded.auxiliary_nfe is not None:
        joint = decoded.choice.config.verify.passes
        whose = "passes of the joint sampler" if joint else "of the auxiliary model"
        told += f", and {decoded.auxiliary_nfe[index]} {whose}"
    line.add_row("", f"[dim]{told}")
    console.print(line)


def print_choice(choice: Choice) -> None:
    """Say which record is in force and why."""
    if choice.record is not None:
        said = f"record {choice.record}, match {choice.match}"
    else:
        said = {"GIVEN": "the configuration given"}.get(choice.match, "SAFE, as no record applies")
    say(f"decoded with {said}: {describe(choice.config)}")
    for reason in choice.reasons:
        say(f"  {reason}", style="dim")
