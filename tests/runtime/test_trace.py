"""Traces in memory, on disk, and compared."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllmc.runtime import Trace, TraceStep
from dllmc.spec import TraceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MASK = 1
CONFIG = {"commit": {"kind": "threshold", "threshold": 0.9}, "seed": 0}


def a_trace(**changes: Any) -> Trace:
    """Three steps: a refresh, a window that replaces a token, and one that takes another back."""
    steps = [
        TraceStep(1, (0, 1, 2, 3, 4, 5), (2, 4), (7, 9), (0.9, 0.75), plan="w6", seconds=0.5),
        TraceStep(2, (3, 4, 5), (3, 4), (8, 6), (0.5, 1.0), (4,), plan="w3", seconds=0.25),
        TraceStep(3, (2, 3, 5), (2, 5), (MASK, 2), (0.0, 0.5), (2,), plan="w3"),
    ]
    known: dict[str, Any] = {
        "steps": steps,
        "prompt": [5, 6],
        "response_start": 2,
        "response_length": 4,
        "mask_id": MASK,
        "config": CONFIG,
        "model": "toy",
        "tokens": [MASK, 8, 6, 2],
    }
    return Trace(**known | changes)


def with_step(trace: Trace, index: int, **changes: Any) -> Trace:
    steps = list(trace)
    steps[index] = dataclasses.replace(steps[index], **changes)
    return dataclasses.replace(trace, steps=steps)


def test_a_trace_is_the_sequence_of_its_steps() -> None:
    trace = a_trace()
    assert len(trace) == 3
    assert [step.nfe for step in trace] == [1, 2, 3]
    assert trace[-1].revised == (2,)


def test_the_canvas_follows_commits_replacements_and_what_is_taken_back() -> None:
    trace = a_trace()
    canvases = [
        (5, 6, 1, 1, 1, 1),
        (5, 6, 7, 1, 9, 1),
        (5, 6, 7, 8, 6, 1),
        (5, 6, 1, 8, 6, 2),
    ]
    assert list(trace.canvases()) == canvases
    assert [trace.canvas_at(step) for step in range(4)] == canvases


@pytest.mark.parametrize("step", [-1, 4])
def test_a_canvas_after_no_step_is_refused(step: int) -> None:
    with pytest.raises(UsageError, match=f"`step`={step} must be from 0 to 3"):
        a_trace().canvas_at(step)


def test_the_canvas_is_as_long_as_what_was_decoded_beyond_the_response() -> None:
    trace = a_trace(response_length=3)
    assert trace.length == 6
    assert len(trace.canvas_at(0)) == 6


def test_a_prompt_that_does_not_end_where_the_response_starts_is_refused() -> None:
    with pytest.raises(UsageError, match="`prompt` has 2 tokens and `response_start`=3"):
        a_trace(response_start=3)


def test_ids_are_of_all_tokens_that_occur() -> None:
    assert a_trace().ids == [1, 2, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("pieces", [None, {1: "<&\"'\n\r\u2028\\>", 7: "é 🙂"}])
def test_what_is_saved_is_loaded(tmp_path: Path, pieces: dict[int, str] | None) -> None:
    trace, path = a_trace(pieces=pieces), tmp_path / "a.jsonl"
    trace.save(path)
    assert Trace.load(path) == trace
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_trace_of_no_step_is_saved_and_loaded(tmp_path: Path) -> None:
    trace, path = a_trace(steps=(), tokens=()), tmp_path / "a.jsonl"
    trace.save(path)
    assert Trace.load(path) == trace


def test_the_file_is_a_header_and_a_line_per_step_with_rows_as_spans(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    a_trace().save(path)
    header, *steps = map(json.loads, path.read_text().splitlines())
    assert (header["format"], header["schema"], header["steps"]) == ("dllmc trace", 1, 3)
    assert [step["rows"] for step in steps] == [[[0, 6]], [[3, 6]], [[2, 4], [5, 6]]]


def test_a_confidence_that_is_no_number_is_null(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with_step(a_trace(), 0, confidences=(math.nan, math.inf)).save(path)
    assert json.loads(path.read_text().splitlines()[1])["confidences"] == [None, None]
    assert all(map(math.isnan, Trace.load(path)[0].confidences))


def test_a_file_that_cannot_be_written_whole_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(ValueError, match="JSON"):
        with_step(a_trace(), 2, seconds=math.nan).save(path)
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


@given(st.lists(st.integers(0, 30)))
def test_spans_stand_for_the_rows_they_were_made_of(rows: list[int]) -> None:
    found = TraceStep(1, tuple(rows), (), (), ()).spans
    assert [row for start, end in found for row in range(start, end)] == rows
    assert all(one[1] != other[0] for one, other in itertools.pairwise(found))


def edited(line: int, **changes: Any) -> Callable[[list[str]], list[str]]:
    def edit(lines: list[str]) -> list[str]:
        lines[line] = json.dumps(json.loads(lines[line]) | changes)
        return lines

    return edit


DAMAGES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "another file": (lambda _: ['{"prompt": "a"}'], "line 1 is not the header"),
    "a list": (lambda _: ["[1]"], "line 1 is not the header"),
    "empty": (lambda _: [], "line 1 is not the header"),
    "nested": (lambda _: ["[" * 100_000], "line 1 is not the header"),
    "newer": (edited(0, schema=2), "has trace schema 2 and this dllmc reads 1; update dllmc"),
    "older": (edited(0, schema=0), "line 1 is damaged (`schema`: "),
    "unknown key": (edited(0, colour="red"), "line 1 is damaged (`colour`: "),
    "prompt of another length": (
        edited(0, prompt=[5]),
        "line 1 is damaged (1 tokens stand before 2",
    ),
    "cut inside a line": (
        lambda lines: [*lines[:3], lines[3][:20]],
        "line 4 is damaged (Invalid JSON",
    ),
    "cut between lines": (lambda lines: lines[:3], "ends at line 3, with 2 of 3 steps"),
    "empty line": (lambda lines: [*lines[:2], "", *lines[2:]], "line 3 is damaged"),
    "missing key": (lambda lines: [*lines[:3], '{"nfe": 3}'], "line 4 is damaged (`rows`: "),
    "text for a number": (edited(1, nfe="1"), "line 2 is damaged (`nfe`: "),
    "fewer tokens": (edited(1, tokens=[7]), "line 2 is damaged (positions, tokens and conf"),
    "revised elsewhere": (edited(2, revised=[5]), "line 3 is damaged (a revised position"),
    "span without rows": (edited(2, rows=[[3, 3]]), "line 3 is damaged (a span of rows"),
    "span of all memory": (edited(2, rows=[[0, 10**12]]), "line 3 is damaged (`rows.0.1`: "),
    "negative position": (edited(1, positions=[-1, 4]), "line 2 is damaged (`positions.0`: "),
    "position in the prompt": (edited(1, positions=[1, 4]), "line 2 is damaged (it writes into"),
    "not a number": (edited(1, seconds=math.nan), "line 2 is damaged (`seconds`: "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_with_its_line_and_what_to_do(
    damage: str, tmp_path: Path
) -> None:
    edit, said = DAMAGES[damage]
    path = tmp_path / "a.jsonl"
    a_trace().save(path)
    path.write_text("".join(f"{line}\n" for line in edit(path.read_text().splitlines())))
    with pytest.raises(TraceError) as caught:
        Trace.load(path)
    assert str(caught.value).startswith(f"`{path}`")
    assert said in str(caught.value)
    assert "; " in str(caught.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    for name, said in (
        ("nowhere", "there is no"),
        ("", "cannot be read"),
        ("binary", "is no trace"),
    ):
        with pytest.raises(TraceError, match=said):
            Trace.load(tmp_path / name)


def test_equal_decisions_make_no_difference_whatever_times_confidences_and_order() -> None:
    one = a_trace()
    other = with_step(one, 0, positions=(4, 2), tokens=(9, 7), confidences=(0.7, 0.9), seconds=9.0)
    assert one.first_difference(one) is None
    assert one.first_difference(other) is None


@pytest.mark.parametrize(
    ("step", "changes", "fields"),
    [
        (0, {"rows": (0, 1, 2, 3, 4)}, ("rows",)),
        (1, {"positions": (3, 5), "revised": ()}, ("positions", "revised")),
        (1, {"tokens": (8, 9)}, ("tokens",)),
        (2, {"nfe": 4}, ("nfe",)),
    ],
)
def test_the_first_step_that_decides_otherwise_is_found(
    step: int, changes: dict[str, Any], fields: tuple[str, ...]
) -> None:
    found = a_trace().first_difference(with_step(a_trace(), step, **changes))
    assert found is not None
    assert (found.settings, found.step, found.fields, found.plan) == ((), step, fields, None)


def test_another_plan_does_not_hide_where_decisions_part() -> None:
    other = with_step(with_step(a_trace(), 0, plan="w8"), 2, tokens=(MASK, 8))
    found = a_trace().first_difference(other)
    assert found is not None
    assert (found.plan, found.step, found.fields) == (0, 2, ("tokens",))


def test_another_configuration_does_not_hide_where_decisions_part() -> None:
    config = {"commit": {"kind": "threshold", "threshold": 0.8}, "seed": 0, "temperature": 0.0}
    other = with_step(a_trace(config=config), 1, tokens=(8, 9))
    found = a_trace().first_difference(other)
    assert found is not None
    assert found.settings == ("config.commit.threshold", "config.temperature")
    assert (found.step, found.fields) == (1, ("tokens",))


def test_steps_of_different_prompts_are_not_compared() -> None:
    found = a_trace().first_difference(a_trace(prompt=[5, 7], response_length=3))
    assert found is not None
    assert found.settings == ("prompt", "response_length")
    assert (found.step, found.fields, found.plan) == (None, (), None)


def test_a_trace_that_ends_earlier_differs_where_it_ends() -> None:
    found = a_trace().first_difference(a_trace(steps=a_trace().steps[:2]))
    assert found is not None
    assert (found.step, found.fields) == (2, ("end",))


def test_responses_that_were_cut_differently_differ() -> None:
    found = a_trace().first_difference(a_trace(tokens=[MASK, 8]))
    assert found is not None
    assert (found.step, found.fields) == (None, ("tokens",))


def test_confidences_are_compared_by_position_and_within_a_tolerance() -> None:
    one = a_trace()
    other = with_step(one, 0, positions=(4, 2), tokens=(9, 7), confidences=(0.75, 0.8))
    gap = one.confidence_gap(other)
    assert gap is not None
    assert (gap.step, gap.position, gap.confidences) == (0, 2, (0.9, 0.8))
    assert one.confidence_gap(other, tolerance=0.2) is None


def test_confidences_are_compared_while_decisions_agree() -> None:
    one = a_trace()
    parted = with_step(with_step(one, 0, rows=(0, 1)), 1, confidences=(0.1, 0.1))
    assert one.confidence_gap(parted) is None
    assert one.confidence_gap(a_trace(prompt=[5, 7])) is None
