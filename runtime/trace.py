"""What every evaluation of a decode did: which rows it evaluated, and what it committed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from dllmc.runtime import _trace_difference, _trace_file
from dllmc.spec import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from dllmc.runtime._trace_difference import ConfidenceGap, TraceDifference
    from dllmc.runtime._trace_file import Step as Line


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One evaluation of one sequence.

    Attributes:
        nfe: Evaluations of the sequence up to and with this one.
        rows: Canvas positions evaluated.
        positions: Canvas positions written: committed, replaced, or taken back.
        tokens: What they became; the mask where a token was taken back.
        confidences: Of the tokens, 1 / (1 + doubt): their probability where that is the score.
        revised: Those of the positions that held a token before.
        plan: Key of the plan that ran.
        seconds: Wall time; of all sequences evaluated together.
    """

    nfe: int
    rows: tuple[int, ...]
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    revised: tuple[int, ...] = ()
    plan: str = ""
    seconds: float = 0.0

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The rows as spans `[start, end)`."""
        return _trace_file.spans(self.rows)


@dataclass(frozen=True)
class Trace:
    """How one sequence was decoded; a sequence of its steps.

    Attributes:
        steps: In the order in which they ran.
        prompt: Token ids before the response, padding included.
        response_start: Canvas position of the first token of the response.
        response_length: In tokens, whatever ends earlier.
        mask_id: Of the mask token.
        config: The decoding configuration as JSON values.
        model: Its name.
        tokens: The response as it was returned, such as up to its end of sequence.
        pieces: Text of each token id that occurs; None where the model has no tokenizer.
    """

    steps: Sequence[TraceStep]
    prompt: Sequence[int]
    response_start: int
    response_length: int
    mask_id: int
    config: Mapping[str, Any]
    model: str
    tokens: Sequence[int]
    pieces: Mapping[int, str] | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "prompt", "tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.prompt) != self.response_start:
            raise UsageError(
                f"`prompt` has {len(self.prompt)} tokens and `response_start`="
                f"{self.response_start}; give the prompt as it stands on the canvas"
            )

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[TraceStep]:
        return iter(self.steps)

    def __getitem__(self, index: int) -> TraceStep:
        return self.steps[index]

    @property
    def ids(self) -> list[int]:
        """Every token id that occurs, in order."""
        written = (token for step in self.steps for token in step.tokens)
        return sorted({self.mask_id, *self.prompt, *self.tokens, *written})

    @property
    def length(self) -> int:
        """Canvas positions: the prompt, the response, and what was decoded beyond it."""
        last = max((p for step in self.steps for p in step.positions), default=-1)
        return max(self.response_start + self.response_length, last + 1)

    def canvases(self) -> Iterator[tuple[int, ...]]:
        """The canvas before the first step, then after each."""
        canvas = [*self.prompt, *[self.mask_id] * (self.length - len(self.prompt))]
        yield tuple(canvas)
        for step in self.steps:
            for position, token in zip(step.positions, step.tokens, strict=True):
                canvas[position] = token
            yield tuple(canvas)

    def canvas_at(self, step: int) -> tuple[int, ...]:
        """The canvas after `step` steps; after 0 the response is all masks.

        Raises:
            UsageError: There are not so many steps.
        """
        if not 0 <= step <= len(self):
            raise UsageError(f"`step`={step} must be from 0 to {len(self)}, the number of steps")
        return next(islice(self.canvases(), step, None))

    def first_difference(self, other: Trace) -> TraceDifference | None:
        """Where `other` was decoded in another way first; None where it was not.

        Neither times nor confidences count: the same decisions may come of other rounding.
        """
        return _trace_difference.first_difference(self, other)

    def confidence_gap(self, other: Trace, tolerance: float = 1e-3) -> ConfidenceGap | None:
        """The first confidence that is off by more than `tolerance`, while decisions agree."""
        return _trace_difference.confidence_gap(self, other, tolerance)

    def lines(self) -> list[dict[str, Any]]:
        """A header and every step as JSON values, rows as spans `[start, end)`."""
        return _trace_file.lines_of(self)

    def save(self, path: str | Path) -> None:
        """Write `lines` to `path` as JSON, whole or not at all."""
        _trace_file.write(path, self)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """The trace that `save` wrote.

        Raises:
            TraceError: There is none, it is damaged, or it is of a newer version.
        """
        header, steps = _trace_file.read(path)
        return cls(
            steps=[_step(step) for step in steps],
            **header.model_dump(exclude={"format", "schema_version", "steps"}),
        )


def _step(line: Line) -> TraceStep:
    return TraceStep(
        nfe=line.nfe,
        rows=line.evaluated(),
        positions=tuple(line.positions),
        tokens=tuple(line.tokens),
        confidences=tuple(math.nan if c is None else c for c in line.confidences),
        revised=tuple(line.revised),
        plan=line.plan,
        seconds=line.seconds,
    )
