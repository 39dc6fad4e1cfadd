"""A trace as JSON lines: a header, then a line per step, rows as spans `[start, end)`."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dllmc.artifact import write_atomically
from dllmc.spec import TraceError

if TYPE_CHECKING:
    from dllmc.runtime.trace import Trace, TraceStep

_FORMAT: Literal["dllmc trace"] = "dllmc trace"
_SCHEMA = 1
_MAKE = "`dllmc trace MODEL PROMPT --save FILE.jsonl` writes one"
_AGAIN = "copy it again, or save the trace again"
# No canvas is as long; a file must not ask for more memory than its own size explains.
_LONGEST = 2**22

Position = Annotated[int, Field(ge=0, lt=_LONGEST)]
Token = Annotated[int, Field(ge=0, lt=2**63)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


_L = TypeVar("_L", bound=_Line)


class Header(_Line):
    """The first line; fields as in `Trace`, and the number of lines that follow."""

    format: Literal["dllmc trace"]
    schema_version: Literal[1] = Field(alias="schema")
    model: str
    config: dict[str, Any]
    mask_id: Token
    prompt: list[Token]
    response_start: Position
    response_length: Position
    tokens: list[Token]
    pieces: dict[int, str] | None
    steps: int = Field(ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.prompt) != self.response_start:
            raise ValueError(f"{len(self.prompt)} tokens stand before {self.response_start}")
        return self


class Step(_Line):
    """A line of a step; fields as in `TraceStep`, null for what is no finite number."""

    nfe: int
    rows: list[tuple[Position, Position]]
    positions: list[Position]
    tokens: list[Token]
    confidences: list[float | None]
    revised: list[Position]
    plan: str
    seconds: float

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not len(self.positions) == len(self.tokens) == len(self.confidences):
            raise ValueError("positions, tokens and confidences are not of one length")
        if any(start >= end for start, end in self.rows):
            raise ValueError("a span of rows ends before it starts")
        if not set(self.revised) <= set(self.positions):
            raise ValueError("a revised position is not among the positions")
        return self

    def evaluated(self) -> tuple[int, ...]:
        """The rows."""
        return tuple(chain.from_iterable(range(*span) for span in self.rows))


def spans(rows: tuple[int, ...]) -> list[tuple[int, int]]:
    """`[(0, 4), (7, 8)]` for 0, 1, 2, 3, 7: each start, and the end after the last."""
    # Nearly every step evaluates one span, which this finds 20 times as fast as the loop.
    if rows and rows == tuple(range(rows[0], rows[-1] + 1)):
        return [(rows[0], rows[-1] + 1)]
    found: list[tuple[int, int]] = []
    for row in rows:
        if found and row == found[-1][1]:
            found[-1] = (found[-1][0], row + 1)
        else:
            found.append((row, row + 1))
    return found


def lines_of(trace: Trace) -> list[dict[str, Any]]:
    """The lines of the file as JSON values."""
    header = {
        "format": _FORMAT,
        "schema": _SCHEMA,
        "model": trace.model,
        "config": trace.config,
        "mask_id": trace.mask_id,
        "prompt": trace.prompt,
        "response_start": trace.response_start,
        "response_length": trace.response_length,
        "tokens": trace.tokens,
        "pieces": None if trace.pieces is None else dict(trace.pieces),
        "steps": len(trace),
    }
    return [header, *map(_step, trace)]


def _step(step: TraceStep) -> dict[str, Any]:
    return {
        "nfe": step.nfe,
        "rows": step.spans,
        "positions": step.positions,
        "tokens": step.tokens,
        "confidences": [c if math.isfinite(c) else None for c in step.confidences],
        "revised": step.revised,
        "plan": step.plan,
        "seconds": step.seconds,
    }


def write(path: str | Path, trace: Trace) -> None:
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines_of(trace))
    write_atomically(Path(path), text)


def read(path: str | Path) -> tuple[Header, list[Step]]:
    first, *lines = _lines(Path(path))
    _check_header(path, first)
    header = _parse(Header, path, 1, first)
    steps = [_parse(Step, path, number, line) for number, line in enumerate(lines, start=2)]
    for number, step in enumerate(steps, start=2):
        if min(step.positions, default=header.response_start) < header.response_start:
            raise _damaged(path, number, "it writes into the prompt")
    if len(steps) != header.steps:
        raise TraceError(
            f"`{path}` ends at line {len(steps) + 1}, with {len(steps)} of {header.steps} steps; "
            f"{_AGAIN}"
        )
    return header, steps


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TraceError(f"there is no trace `{path}`; {_MAKE}") from None
    except UnicodeDecodeError:
        raise TraceError(f"`{path}` is no trace but binary; {_MAKE}") from None
    except OSError as error:
        raise TraceError(f"`{path}` cannot be read ({error.strerror}); {_MAKE}") from None
    # Not splitlines, which also cuts at U+2028 inside a text.
    return text.removesuffix("\n").split("\n")


def _check_header(path: str | Path, line: str) -> None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or values.get("format") != _FORMAT:
        raise TraceError(f"`{path}` is no trace: line 1 is not the header of one; {_MAKE}")
    version = values.get("schema")
    if isinstance(version, int) and version > _SCHEMA:
        raise TraceError(
            f"`{path}` has trace schema {version} and this dllmc reads {_SCHEMA}; update dllmc"
        )


def _parse(kind: type[_L], path: str | Path, number: int, line: str) -> _L:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise _damaged(path, number, f"`{place}`: {reason}" if place else reason) from None


def _damaged(path: str | Path, number: int, reason: str) -> TraceError:
    return TraceError(f"`{path}`, line {number} is damaged ({reason}); {_AGAIN}")
