"""Two traces beside one another, where they part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from dllmc.cli import _trace_words as said
from dllmc.cli._console import output, say, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.runtime import Trace, TraceStep
    from dllmc.runtime._trace_difference import TraceDifference

_SIDES = ("A", "B")


class Comparison:
    """Two traces by their names.

    Args:
        names: Of the traces.
        traces: The traces.
    """

    def __init__(self, names: tuple[str, str], traces: tuple[Trace, Trace]) -> None:
        self.names, self.traces = names, traces
        one, other = traces
        self.difference = one.first_difference(other)
        self.gap = one.confidence_gap(other)

    def as_json(self) -> dict[str, Any]:
        """What differs first, as JSON values; evaluations counted from 1."""
        found: dict[str, Any] = {"equal": self.difference is None}
        if (difference := self.difference) is not None:
            names = difference.settings
            found |= {
                "settings": {name: [_setting(t, name) for t in self.traces] for name in names},
                "evaluation": _evaluation(difference.step),
                "fields": list(difference.fields),
                "plan": _evaluation(difference.plan),
            }
            if difference.step is not None:
                found["steps"] = [t.lines()[1:][difference.step :][:1] for t in self.traces]
        if self.gap is not None:
            found["confidence"] = {
                "evaluation": _evaluation(self.gap.step),
                "position": self.gap.position,
                "confidences": list(self.gap.confidences),
            }
        return found

    def show(self) -> None:
        """Print what differs first, and the canvases there."""
        for side, name, trace in zip(_SIDES, self.names, self.traces, strict=True):
            say(f"{side} {name}: {said.summary(trace)}")
        if self.difference is None:
            say("\nthe decisions are the same")
        else:
            self._show_difference(self.difference)
        if (gap := self.gap) is not None:
            [place] = said.places(self.traces[0], [gap.position])
            say(
                f"\nconfidences differ from evaluation {gap.step + 1} on: "
                f"{gap.confidences[0]:.4f} and {gap.confidences[1]:.4f} at {place}"
            )

    def _show_difference(self, difference: TraceDifference) -> None:
        one, other = self.traces
        for name in difference.settings:
            if name != "prompt":
                say(f"\n{name}: {_setting(one, name)} and {_setting(other, name)}")
        if "prompt" in difference.settings:
            say(f"\n{_prompts(one, other)}, and steps of different prompts are not compared")
            return
        if (plan := difference.plan) is not None:
            plans = f"{one[plan].plan} and {other[plan].plan}"
            say(f"\nother plans from evaluation {plan + 1}: {plans}")
        if difference.step is not None:
            fields = ", ".join(difference.fields)
            say(f"\nfirst difference at evaluation {difference.step + 1}: {fields}")
            self._show_step(difference.step)
        elif difference.fields:
            say("\nthe steps are the same, and the responses end elsewhere")
        else:
            say("\nthe decisions are the same")

    def _show_step(self, index: int) -> None:
        found = table("", *_SIDES)
        sides = [(trace, trace.steps[index : index + 1]) for trace in self.traces]
        found.add_row("rows", *(_rows(*side) for side in sides))
        found.add_row("written", *(_written(*side) for side in sides))
        output().print(found)
        say("\nthe response before:")
        output().print(_response(self.traces[0], index))
        for side, trace in zip(_SIDES, self.traces, strict=True):
            say(f"after it, {side}:")
            output().print(_response(trace, min(index + 1, len(trace))))


def _evaluation(index: int | None) -> int | None:
    return None if index is None else index + 1


def _setting(trace: Trace, name: str) -> Any:
    """The value of `prompt` or of `config.commit.threshold`; None where there is none."""
    first, *path = name.split(".")
    value = getattr(trace, first)
    for part in path:
        value = value.get(part)
    return value


def _prompts(one: Trace, other: Trace) -> str:
    pairs = enumerate(zip(one.prompt, other.prompt, strict=False))
    for position, (mine, theirs) in pairs:
        if mine != theirs:
            tokens = f"{said.word(one, mine)} and {said.word(other, theirs)}"
            return f"the prompts differ from position {position} on: {tokens}"
    return f"the prompts have {len(one.prompt)} and {len(other.prompt)} tokens"


def _rows(trace: Trace, steps: Sequence[TraceStep]) -> str:
    return said.rows(trace, steps[0]) if steps else "no such evaluation"


def _written(trace: Trace, steps: Sequence[TraceStep]) -> Text:
    """`0 a (7) 0.9120`: place, token and confidence; other tokens may look like it."""
    return Text("\n").join(
        Text(f"{place} {said.word(trace, token)} ({token}) {confidence:.4f}")
        for step in steps
        for place, token, confidence in zip(
            said.places(trace, step.positions), step.tokens, step.confidences, strict=True
        )
    )


def _response(trace: Trace, step: int) -> Text:
    """The response after so many steps; what the last of them wrote on colour."""
    fresh = trace[step - 1].positions if step else ()
    line = Text()
    for position, token in enumerate(trace.canvas_at(step)):
        if trace.response_start <= position < trace.response_start + trace.response_length:
            is_mask = token == trace.mask_id
            style = "reverse" if position in fresh else "dim" if is_mask else ""
            line.append(said.MASK if is_mask else said.word(trace, token), style=style)
            line.append(" ")
    return line
