"""Chat templates: a conversation as one text, in the way that the model was trained on.

Rendering stands here and not in `models`, since the runtime does it too and from an artifact, nor
in `spec`, which does without Jinja.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dllmc.spec import CheckpointError, PromptError

Messages = Sequence[Mapping[str, Any]]

# Steps and characters that any template may take, and how many more per character of messages.
_BUDGET, _BUDGET_PER_CHARACTER = 1_000_000, 64
_REMEDY = "correct chat_template.jinja, or give the prompt as text"


@dataclass(frozen=True)
class ChatTemplate:
    """A model's chat template.

    Attributes:
        text: In Jinja.
        special_tokens: Texts by role, such as `bos_token`, which the template may read.
    """

    text: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation, with its special tokens.

        Args:
            messages: Each with `role` and `content`, and whatever else the template reads.
            add_generation_prompt: Whether the text ends where the model's answer begins.

        Raises:
            PromptError: The messages are none, or the template refuses them.
            CheckpointError: The template is damaged, reaches out of its sandbox, or does not end.
        """
        # Jinja takes a while to import, and not everyone chats.
        from dllmc.artifact._sandbox import RefusedError, Sandbox

        plain, size = _plain(messages)
        sandbox = Sandbox(_BUDGET + _BUDGET_PER_CHARACTER * size)
        try:
            template = sandbox.build(self.text)
            return template.render(
                **self.special_tokens,
                messages=plain,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except RefusedError as error:
            raise PromptError(
                f"the chat template refuses these messages: {_line(error)}; change them, or give "
                "the prompt as text"
            ) from error
        except Exception as error:  # A template may raise anything.
            line = getattr(error, "lineno", None)
            where = "" if line is None else f" in line {line}"
            raise CheckpointError(
                f"the chat template fails{where} ({type(error).__name__}: {_line(error)}); "
                f"{_REMEDY}"
            ) from error


def _plain(messages: Any) -> tuple[list[dict[str, Any]], int]:
    """The messages as JSON values alone, so that nothing else is in a template's reach."""
    if isinstance(messages, str | Mapping) or not messages:
        raise PromptError(
            f"`messages`={messages!r} is no conversation; give a list such as "
            "[{'role': 'user', 'content': '...'}]"
        )
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise PromptError(
                f"`messages` holds {message!r}; each needs `role` (system, user or assistant) "
                "and `content`"
            )
    try:
        text = json.dumps([dict(message) for message in messages])
    except (TypeError, ValueError) as error:
        raise PromptError(f"`messages` holds what is no text or number ({error})") from error
    plain: list[dict[str, Any]] = json.loads(text)
    return plain, len(text)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or "it does not say why"
