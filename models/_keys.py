"""What the readers of published `config.json` files share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError

Size = Annotated[int, Field(gt=0)]
TokenId = Annotated[int, Field(ge=0)]


def refuse_others(keys: Mapping[str, object], only: Mapping[str, tuple[object, ...]]) -> None:
    """Refuse keys that would change the network.

    Args:
        keys: Of `config.json`.
        only: For a key, if it is there, the values under which the network stays as it is.

    Raises:
        CheckpointError: A key has another value.
    """
    for key, values in only.items():
        if key in keys and not any(_same(keys[key], value) for value in values):
            raise CheckpointError(
                f"`{key}` is {keys[key]!r}, but only {values[0]!r} is supported; "
                "use another checkpoint"
            )


def one_line(error: ValidationError) -> str:
    """The first thing wrong, as messages of this package say it."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return first["msg"].removeprefix("Value error, ")
    key = first["loc"][0]
    if first["type"] == "missing":
        return f"`{key}` is missing; add it"
    return f"`{key}` is {first['input']!r}; {first['msg'].lower()}"


def ids_of(value: int | list[int] | None) -> tuple[int, ...]:
    """The ids of `eos_token_id`, which is one, several or none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _same(one: Any, other: object) -> bool:
    # In Python 0 == False and 1 == True.
    return type(one) is type(other) and bool(one == other)
