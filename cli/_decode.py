"""One decode as the command line asks for it, by the runtime or by the reference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dllmc.cli._config import read_config
from dllmc.cli._console import progress, status
from dllmc.cli._subject import is_artifact, load_model, open_engine, response_length, task_name
from dllmc.spec import PromptError, UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime import Engine
    from dllmc.runtime.records import Choice

_ENGINES = ("runtime", "reference")
# Sequences decoded together at most.
_BATCH = 16


@dataclass(frozen=True)
class Conversation:
    """A conversation whose next message is the model's.

    Attributes:
        text: Of the user's message.
        system: What the model is told first, or None.
    """

    text: str
    system: str | None = None

    def messages(self) -> list[dict[str, str]]:
        """As chat templates take it."""
        user = {"role": "user", "content": self.text}
        return (
            [user] if self.system is None else [{"role": "system", "content": self.system}, user]
        )

    def __str__(self) -> str:
        return self.text


Prompt = str | list[int] | Conversation


@dataclass(frozen=True)
class Request:
    """What to decode, and how.

    Attributes:
        subject: Path of an artifact, or name or path of a model.
        prompts: Texts, token ids and conversations.
        config: As `read_config` takes it.
        task: Whose records are looked up.
        max_new_tokens: Length of the response; None is the model's own.
        overrides: Fields that replace those of the configuration.
        stream: Noise stream of the first prompt.
        backend: Of the runtime; None is the artifact's own.
        device: Where the runtime runs; None is a CPU.
        database: Folder of the tuning database; None is the user's.
        auxiliary: The autoregressive model that the configuration asks, as `subject`.
        allow: Levels of records to apply besides those that are safe.
        objective: What the record is wanted to be tuned for.
        strict: Whether a knob of the record that nothing takes up is an error.
    """

    subject: str
    prompts: Sequence[Prompt]
    config: str = "auto"
    task: str | None = None
    max_new_tokens: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    stream: int = 0
    backend: str | None = None
    device: str | None = None
    database: str | None = None
    auxiliary: str | None = None
    allow: Sequence[str] = ()
    objective: str = "throughput"
    strict: bool = False


@dataclass(frozen=True)
class Decoded:
    """The responses, and what decided how they were decoded.

    Attributes:
        engine: That decoded, or that encoded for the reference.
        choice: Configuration, record, match level and reasons.
        tokens: Of each response.
        nfe: Evaluations of each.
        auxiliary_nfe: Those of the auxiliary model, or passes of the joint sampler; None where
            there is none.
        traces: What each evaluation committed; of the runtime alone.
    """

    engine: Engine
    choice: Choice
    tokens: list[list[int]]
    nfe: list[int]
    auxiliary_nfe: list[int] | None = None
    traces: Sequence[Any] = ()

    def text(self, index: int) -> str | None:
        """A response as text; None where the model has no tokenizer."""
        if self.engine.package.tokenizer is None:
            return None
        return self.engine.decode(self.tokens[index])


def read_ids(text: str) -> list[int]:
    """Token ids of `5,17,3`.

    Raises:
        PromptError: It is not a list of whole numbers.
    """
    try:
        return [int(part) for part in text.split(",")] if text.strip() else []
    except ValueError:
        raise PromptError(
            f"`--token-ids`={text!r} is not a list of token ids; write 5,17,3"
        ) from None


def run(request: Request, engine: str = "runtime") -> Decoded:
    """Decode `request` by the `runtime` or by the `reference`.

    Raises:
        DllmcError: Something of the request is wrong, or cannot be opened.
    """
    if engine not in _ENGINES:
        raise UsageError(f"`--engine`={engine!r} is unknown; {nearest(engine, _ENGINES)}")
    if not request.prompts:
        raise PromptError("there is no prompt; give PROMPT, --chat TEXT or --token-ids 5,17,3")
    # Before anything is loaded, which takes a while.
    config, task = read_config(request.config), task_name(request.task)
    return (_by_runtime if engine == "runtime" else _by_reference)(request, config, task)


def _by_runtime(request: Request, config: DecodingConfig | None, task: str | None) -> Decoded:
    engine = open_engine(
        request.subject,
        backend=request.backend,
        device=request.device,
        database=request.database,
        auxiliary=request.auxiliary,
    )
    length = request.max_new_tokens or response_length(engine)
    choice = _choose(engine, request, config, task, length)
    with status("decoding; the first step compiles"):
        found = engine.generate(
            _prompts(engine, request),
            max_new_tokens=length,
            config=choice.config,
            batch=_BATCH,
            streams=_streams(request),
        )
    asked = request.auxiliary is not None or choice.config.verify.passes
    helped = found.auxiliary_nfe if asked else None
    return Decoded(engine, choice, found.tokens, found.nfe, helped, found.trace)


def _by_reference(request: Request, config: DecodingConfig | None, task: str | None) -> Decoded:
    for subject in filter(None, (request.subject, request.auxiliary)):
        if is_artifact(subject):
            raise UsageError(
                f"`--engine` reference needs the plain model and `{subject}` is an artifact; "
                "give the name or the checkpoint that it was compiled from"
            )
    if request.backend is not None:
        raise UsageError(f"`--backend`={request.backend!r} is the runtime's; leave it out")
    if request.device is not None:
        raise UsageError(f"`--device`={request.device!r} is the runtime's; leave it out")
    import dllmc

    model = load_model(request.subject)
    # For its tokenizer and its records alone.
    engine = open_engine(model, database=request.database, auxiliary=request.auxiliary)
    auxiliary = None if request.auxiliary is None else load_model(request.auxiliary)
    length = request.max_new_tokens or response_length(engine)
    choice = _choose(engine, request, config, task, length)
    with progress() as bar:
        prompts = zip(_prompts(engine, request), _streams(request), strict=True)
        found = [
            dllmc.reference.generate(
                model,
                prompt,
                choice.config,
                max_new_tokens=length,
                stream=stream,
                auxiliary=auxiliary,
            )
            for prompt, stream in bar.track(list(prompts), description="decoding by the reference")
        ]
    asked = auxiliary is not None or choice.config.verify.passes
    helped = [o.auxiliary_nfe for o in found] if asked else None
    return Decoded(engine, choice, [o.tokens for o in found], [o.nfe for o in found], helped)


def _choose(
    engine: Engine, request: Request, config: DecodingConfig | None, task: str | None, length: int
) -> Choice:
    from dllmc.runtime.records import Choice, choose_record, read_objective

    changes = request.overrides
    if config is not None:
        return Choice(config.replace(**changes), None, "GIVEN", ())
    batch = min(_BATCH, len(request.prompts))
    found = choose_record(
        engine,
        task=task,
        batch=batch,
        max_new_tokens=length,
        allow=request.allow,
        objective=read_objective(request.objective),
        strict=request.strict,
    )
    if not changes:
        return found
    names = " and ".join(f"`--{name}`" for name in changes)
    source = f"record {found.record}" if found.record else "SAFE"
    reason = f"{names} changes {source}, which says nothing of this"
    return replace(
        found,
        config=found.config.replace(**changes),
        record=None,
        match="GIVEN",
        reasons=(reason,),
    )


def _prompts(engine: Engine, request: Request) -> list[list[int]]:
    return [_ids(engine, prompt) for prompt in request.prompts]


def _ids(engine: Engine, prompt: Prompt) -> list[int]:
    if isinstance(prompt, Conversation):
        return engine.encode_chat(prompt.messages())
    return engine.encode(prompt) if isinstance(prompt, str) else prompt


def _streams(request: Request) -> range:
    return range(request.stream, request.stream + len(request.prompts))
