"""Special tokens and the chat template, as a checkpoint declares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dllmc.models._json import DAMAGED, read_json
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG, _MAP, _TEMPLATE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_FURTHER = "additional_special_tokens"
_DEFAULT = "default"


def read_special_tokens(folder: Path) -> dict[str, str]:
    """Text by role (`bos_token`, `eos_token`, `mask_token`, ...), of the roles that are filled.

    Raises:
        CheckpointError: A file is damaged.
    """
    found: dict[str, str] = {}
    # The configuration is the newer form, so it wins.
    for path in (folder / _MAP, folder / _CONFIG):
        declared = read_json(path) if path.exists() else {}
        for role in _ROLES:
            text = _content(declared.get(role))
            if text is not None:
                found[role] = text
    return found


def all_special_tokens(folder: Path) -> list[str]:
    """Text of every special token, with a role or without, once.

    Raises:
        CheckpointError: A file is damaged.
    """
    further: list[Any] = []
    for path in (folder / _MAP, folder / _CONFIG):
        declared = read_json(path).get(_FURTHER) if path.exists() else None
        further = declared if isinstance(declared, list) else further
    texts = [*read_special_tokens(folder).values(), *map(_content, further)]
    return list(dict.fromkeys(text for text in texts if text is not None))


def read_chat_template(folder: Path) -> str | None:
    """The Jinja template that writes a conversation as one text; None where there is none.

    Raises:
        CheckpointError: A file is damaged, or of several templates none is the default.
    """
    file = folder / _TEMPLATE
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); {DAMAGED}") from error
    path = folder / _CONFIG
    declared = read_json(path).get("chat_template") if path.exists() else None
    if declared is None or isinstance(declared, str):
        return declared
    return _default_of(path, declared)


def _default_of(path: Path, declared: Any) -> str:
    try:
        named = {str(entry["name"]): entry["template"] for entry in declared}
    except (KeyError, TypeError):
        named = {}
    template = named.get(_DEFAULT, next(iter(named.values())) if len(named) == 1 else None)
    if not isinstance(template, str):
        names = ", ".join(f"`{name}`" for name in named) or "no named templates"
        raise CheckpointError(
            f"{path}: `chat_template` holds {names}, of which none is `{_DEFAULT}`; put the one "
            f"to use into {_TEMPLATE} beside it"
        )
    return template


def _content(declared: Any) -> str | None:
    """A token is its text, or an object with it."""
    if isinstance(declared, dict):
        declared = declared.get("content")
    return declared if isinstance(declared, str) and declared else None
