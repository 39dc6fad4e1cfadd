"""Decoding to the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast, overload

from dllmc.reference.decoder import ReferenceDecoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from dllmc.policies.config import DecodingConfig
    from dllmc.reference._trace import StepTrace
    from dllmc.spec import DenoiserSpec


class Denoiser(Protocol):
    """A plain denoiser with its spec, such as `dllmc.models` loads."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def spec(self) -> DenoiserSpec: ...


@dataclass(frozen=True, slots=True)
class ReferenceOutput:
    """What was decoded.

    Attributes:
        tokens: The response.
        nfe: Evaluations made.
        trace: Every evaluation, first to last.
        auxiliary_nfe: Evaluations of the autoregressive model beside it, if one was asked.
    """

    tokens: list[int]
    nfe: int
    trace: list[StepTrace]
    auxiliary_nfe: int = 0


@overload
def generate(
    model: Denoiser,
    prompt: Sequence[int],
    config: DecodingConfig,
    *,
    max_new_tokens: int = ...,
    stream: int = ...,
    auxiliary: Denoiser | None = ...,
) -> ReferenceOutput: ...


@overload
def generate(
    model: Denoiser,
    prompt: Sequence[Sequence[int]],
    config: DecodingConfig,
    *,
    max_new_tokens: int = ...,
    stream: int = ...,
    auxiliary: Denoiser | None = ...,
) -> list[ReferenceOutput]: ...


def generate(
    model: Denoiser,
    prompt: Sequence[int] | Sequence[Sequence[int]],
    config: DecodingConfig,
    *,
    max_new_tokens: int = 32,
    stream: int = 0,
    auxiliary: Denoiser | None = None,
) -> ReferenceOutput | list[ReferenceOutput]:
    """Decode `prompt` the slow and obvious way; the oracle that the runtime is compared with.

    Args:
        model: The module, token ids `[1, T]` -> logits `[1, T, vocab_size]`, and its spec.
        prompt: Token ids, or a list of prompts, of which each is decoded alone.
        config: How to decode.
        max_new_tokens: Length of the response.
        stream: Noise stream of the prompt, or of the first of a list.
        auxiliary: The autoregressive model that the verify policy asks, if it does.

    Raises:
        ConfigError: `config` does not fit the model or the length.
        PromptError: A prompt is empty, too long, or has an id that it may not have.
    """
    if prompt and not isinstance(prompt[0], int):
        rows = cast("Sequence[Sequence[int]]", prompt)
        return [
            generate(
                model,
                row,
                config,
                max_new_tokens=max_new_tokens,
                stream=stream + index,
                auxiliary=auxiliary,
            )
            for index, row in enumerate(rows)
        ]
    ids = cast("Sequence[int]", prompt)
    helper = None if auxiliary is None else auxiliary.module
    tokenizer = getattr(model, "tokenizer", None)
    given = ids, config, max_new_tokens, stream, helper, tokenizer
    decoder = ReferenceDecoder(model.module, model.spec, *given)
    trace = []
    while not decoder.done:
        trace.append(decoder.step())
    return ReferenceOutput(decoder.output, decoder.nfe, trace, decoder.auxiliary_nfe)
