"""Rules that judge an answer against a reference, by name.

A metric turns a reference into a judge of answers, so that a reference of the wrong form is
found when a task is read and not when its first answer is scored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal

from dllmc.spec import TaskError, nearest

Reference = str | tuple[str, ...]
Judge = Callable[[str], bool]

# A sign counts only where it cannot be a minus between two terms: the last number of `10-4` is 4.
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+])?"
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d+)?",
    re.ASCII,
)
# Six significant digits: what `%g` and most models write.
_RELATIVE_TOLERANCE = 1e-6


def _exact(reference: Reference) -> Judge:
    words = _text(reference).split()
    return lambda answer: answer.split() == words


def _one_of(reference: Reference) -> Judge:
    if isinstance(reference, str) or not reference:
        raise TaskError(f"`one-of` needs a list of strings as reference, not {reference!r}")
    accepted = [text.split() for text in reference]
    return lambda answer: answer.split() in accepted


def _numeric(reference: Reference) -> Judge:
    text = _text(reference).strip()
    if not _NUMBER.fullmatch(text):
        raise TaskError(f"`numeric` needs one number as reference, not {text!r}")
    wanted = _number(text)

    def judge(answer: str) -> bool:
        numbers = _NUMBER.findall(answer.replace("\N{MINUS SIGN}", "-"))
        return bool(numbers) and _close(wanted, _number(numbers[-1]))

    return judge


def _regex(reference: Reference) -> Judge:
    try:
        pattern = re.compile(_text(reference))
    except re.error as error:
        raise TaskError(
            f"{reference!r} is not a regular expression ({error}); correct the reference"
        ) from error
    return lambda answer: pattern.fullmatch(answer.strip()) is not None


def _json_equal(reference: Reference) -> Judge:
    try:
        wanted = _canonical(_text(reference))
    except (ValueError, RecursionError) as error:
        raise TaskError(
            f"`json-equal` needs JSON as reference, not {reference!r} ({error})"
        ) from error

    def judge(answer: str) -> bool:
        try:
            return _canonical(answer) == wanted
        except (ValueError, RecursionError):
            return False

    return judge


METRICS: dict[str, Callable[[Reference], Judge]] = {
    "exact": _exact,
    "one-of": _one_of,
    "numeric": _numeric,
    "regex": _regex,
    "json-equal": _json_equal,
}


def judge_of(metric: str, reference: Reference) -> Judge:
    """What decides whether an answer is right.

    - `exact`: the same words; white space is free.
    - `one-of`: the same words as one of a list of references.
    - `numeric`: the last number of the answer is the reference: equal between whole numbers,
      else to six significant digits.
    - `regex`: the whole answer, stripped, matches the reference.
    - `json-equal`: the same JSON value; key order and white space are free.

    Args:
        metric: Name of the metric.
        reference: The right answer, or a tuple of them for `one-of`.

    Raises:
        TaskError: There is no such metric, or the reference is not of the form that it needs.
    """
    if metric not in METRICS:
        raise TaskError(f"`{metric}` is not a metric; {nearest(metric, METRICS)}")
    return METRICS[metric](reference)


def score(metric: str, reference: Reference, answer: str) -> bool:
    """Whether `answer` is right; see `judge_of`.

    Raises:
        TaskError: There is no such metric, or the reference is not of the form that it needs.
    """
    return judge_of(metric, reference)(answer)


def _text(reference: Reference) -> str:
    if isinstance(reference, str):
        return reference
    raise TaskError(f"only `one-of` takes a list as reference, here {list(reference)!r}")


def _number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def _close(wanted: Decimal, found: Decimal) -> bool:
    if wanted == wanted.to_integral_value() and found == found.to_integral_value():
        return wanted == found
    return math.isclose(wanted, found, rel_tol=_RELATIVE_TOLERANCE)


def _canonical(text: str) -> object:
    """The value of `text`, so marked that `1` and `true` differ, which are equal in Python."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not JSON")

    return _typed(json.loads(text, object_pairs_hook=unique, parse_constant=refuse))


def _typed(value: object) -> object:
    match value:
        case bool():
            return ("bool", value)
        case dict():
            return {key: _typed(item) for key, item in value.items()}
        case list():
            return [_typed(item) for item in value]
        case _:
            return value
