"""The text of tokens, decoded when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dllmc.runtime.trace import Trace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from dllmc.runtime.state import DecodeState


class Pieces(Mapping[int, str]):
    """Text of each token that occurs in a decode.

    Decoding all of them takes as long as several steps of a small model, and most traces are
    never looked at.
    """

    def __init__(self, tokenizer: Tokenizer, state: DecodeState, tokens: Sequence[int]) -> None:
        self._tokenizer, self._state, self._tokens = tokenizer, state, tokens

    @functools.cached_property
    def _ids(self) -> frozenset[int]:
        written = (step.tokens for step in self._state.trace)
        known = {*self._state.prompt, *self._tokens, self._state.spec.mask_id}
        return frozenset(known.union(*written))

    def __getitem__(self, token: int) -> str:
        if token not in self._ids:
            raise KeyError(token)
        text: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return text

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._ids))

    def __len__(self) -> int:
        return len(self._ids)


def trace_of(
    state: DecodeState,
    tokens: Sequence[int],
    config: Mapping[str, Any],
    model: str,
    tokenizer: Tokenizer | None,
) -> Trace:
    """The trace of a sequence that was decoded to `tokens`.

    Args:
        state: Of the sequence.
        tokens: Its response.
        config: How it was decoded, as JSON values.
        model: Its name.
        tokenizer: Of the model, if it has one.
    """
    return Trace(
        steps=state.trace,
        prompt=state.prompt,
        response_start=state.response_start,
        response_length=state.response_end - state.response_start,
        mask_id=state.spec.mask_id,
        config=config,
        model=model,
        tokens=tokens,
        pieces=None if tokenizer is None else Pieces(tokenizer, state, tokens),
    )
