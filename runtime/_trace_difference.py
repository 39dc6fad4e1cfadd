"""Where two traces part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.runtime.trace import Trace, TraceStep

_SETTINGS = ("prompt", "response_length", "mask_id")
END = "end"


@dataclass(frozen=True)
class TraceDifference:
    """The first difference of two traces.

    Attributes:
        settings: What they were started with that differs: `prompt`, `response_length`,
            `mask_id`, and fields of the configuration such as `config.commit.threshold`.
        step: Index of the first step that decides otherwise; None where none does, or where the
            prompts differ, so that steps have nothing to do with one another.
        fields: What of that step differs: `nfe`, `rows`, `positions`, `tokens`, `revised`; `end`
            where one trace has no such step. Without a step, `tokens` of the response or nothing.
        plan: Index of the first step that ran another plan, which by itself decides nothing.
    """

    settings: tuple[str, ...]
    step: int | None
    fields: tuple[str, ...]
    plan: int | None


@dataclass(frozen=True)
class ConfidenceGap:
    """Two confidences of the same decision.

    Attributes:
        step: Index of the step.
        position: On the canvas.
        confidences: Of either trace.
    """

    step: int
    position: int
    confidences: tuple[float, float]


def first_difference(one: Trace, other: Trace) -> TraceDifference | None:
    settings = (
        *(name for name in _SETTINGS if getattr(one, name) != getattr(other, name)),
        *_paths(one.config, other.config, "config"),
    )
    if "prompt" in settings:
        return TraceDifference(settings, None, (), None)
    step, fields = _first_step(one, other)
    pairs = enumerate(zip(one, other, strict=False))
    plan = next((index for index, (mine, theirs) in pairs if mine.plan != theirs.plan), None)
    if step is None and one.tokens != other.tokens:
        fields = ("tokens",)
    if not settings and not fields and plan is None:
        return None
    return TraceDifference(settings, step, fields, plan)


def confidence_gap(one: Trace, other: Trace, tolerance: float) -> ConfidenceGap | None:
    if one.prompt != other.prompt:
        return None
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if _decided_otherwise(mine, theirs):
            return None
        sure = dict(zip(theirs.positions, theirs.confidences, strict=True))
        for position, here in zip(mine.positions, mine.confidences, strict=True):
            if abs(here - sure[position]) > tolerance:
                return ConfidenceGap(index, position, (here, sure[position]))
    return None


def _first_step(one: Trace, other: Trace) -> tuple[int | None, tuple[str, ...]]:
    for index, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if fields := _decided_otherwise(mine, theirs):
            return index, fields
    if len(one) != len(other):
        return min(len(one), len(other)), (END,)
    return None, ()


def _decided_otherwise(one: TraceStep, other: TraceStep) -> tuple[str, ...]:
    mine, theirs = _decisions(one), _decisions(other)
    return tuple(name for name in mine if mine[name] != theirs[name])


def _decisions(step: TraceStep) -> dict[str, object]:
    """What a step decided, whatever the order in which it is listed."""
    written = sorted(zip(step.positions, step.tokens, strict=True))
    return {
        "nfe": step.nfe,
        "rows": sorted(step.rows),
        "positions": [position for position, _ in written],
        "tokens": [token for _, token in written],
        "revised": sorted(step.revised),
    }


def _paths(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> list[str]:
    """Dotted names of the values that differ; one that only either has counts."""
    found = []
    for key in dict.fromkeys([*one, *other]):
        mine, theirs, path = one.get(key), other.get(key), f"{prefix}.{key}"
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += _paths(mine, theirs, path)
        elif mine != theirs or (key in one) != (key in other):
            found.append(path)
    return found
