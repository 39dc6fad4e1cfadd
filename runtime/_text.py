"""From text to token ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.spec import PromptError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def encoded(tokenizer: Tokenizer, name: str, text: str, *, special: bool) -> list[int]:
    """Token ids of `text`.

    Args:
        tokenizer: Of the model.
        name: Of the model.
        text: All of whose characters it must know.
        special: Whether its special tokens go around the text.

    Raises:
        PromptError: The tokenizer does not know a character.
    """
    encoding = tokenizer.encode(text, add_special_tokens=special)
    ids: list[int] = encoding.ids
    unknown = getattr(tokenizer.model, "unk_token", None)
    if unknown is not None and tokenizer.token_to_id(unknown) in ids:
        known = tokenizer.get_vocab()
        strange = sorted({c for c in text if not any(c in piece for piece in known)})
        raise PromptError(
            f"the tokenizer of `{name}` does not know {', '.join(map(repr, strange))} "
            f"in {text!r}; leave it out"
        )
    return ids
