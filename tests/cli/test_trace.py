"""`dllmc trace`: decodes shown, saved, put on a page and compared."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from dllmc.runtime import Trace, TraceStep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MASK = 1
PIECES = {1: "<|mask|>", 2: "<|end|>", 5: "sort:", 6: " b", 7: " a", 8: " b"}
CONFIG = {"commit": {"kind": "threshold", "threshold": 0.9}}
BLOCKS = json.dumps(
    {
        "schedule": {"kind": "blocks", "block_length": 4},
        "commit": {"kind": "quota", "steps": 4},
        "stop": {"kind": "length"},
    }
)


def a_trace(**changes: Any) -> Trace:
    """Three evaluations: two commits; one commit and one replacement; one taken back."""
    steps = (
        TraceStep(1, tuple(range(6)), (2, 4), (7, 6), (0.9, 0.75), plan="w6", seconds=0.5),
        TraceStep(2, (2, 3, 4), (3, 4), (8, 2), (0.5, 1.0), (4,), plan="w3", seconds=0.25),
        TraceStep(3, (2, 5), (2, 5), (MASK, 2), (0.0, 0.5), (2,), plan="w2"),
    )
    known: dict[str, Any] = {
        "steps": steps,
        "prompt": (5, 6),
        "response_start": 2,
        "response_length": 4,
        "mask_id": MASK,
        "config": CONFIG,
        "model": "toy",
        "tokens": (MASK, 8, 2),
        "pieces": PIECES,
    }
    return Trace(**known | changes)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Save a trace; where it is."""

    def save(trace: Trace, name: str = "a.jsonl") -> Path:
        trace.save(tmp_path / name)
        return tmp_path / name

    return save


def test_every_token_is_shown_once_with_its_evaluation(dllmc: Callable, artifact: Path) -> None:
    arguments = ("trace", artifact, "sort: a", "--max-new-tokens", 8, "--config", BLOCKS)
    found = dllmc(*arguments, "--json").json
    assert found["response_start"] == 32
    assert [step["nfe"] for step in found["trace"]] == [1, 2, 3, 4]
    assert [step["rows"] for step in found["trace"]] == [
        [[0, 40]],
        [[32, 36]],
        [[0, 40]],
        [[36, 40]],
    ]
    assert [len(step["tokens"]) for step in found["trace"]] == [2, 2, 2, 2]
    tokens = {
        position: token
        for step in found["trace"]
        for position, token in zip(step["positions"], step["tokens"], strict=True)
    }
    assert [tokens[position] for position in range(32, 40)] == found["tokens"]

    shown = dllmc(*arguments).out.splitlines()
    columns = ["evaluation", "rows", "committed", "at", "lowest", "ms", "tokens"]
    assert shown[0].split() == columns
    assert [line.split()[:3] for line in shown[1:5]] == [
        ["1", "40", "2"],
        ["2", "4", "2"],
        ["3", "40", "2"],
        ["4", "4", "2"],
    ]


def test_a_token_that_repeats_is_counted(dllmc: Callable, artifact: Path) -> None:
    config = '{"commit": {"kind": "quota", "steps": 1}, "stop": {"kind": "length"}}'
    arguments = ("trace", artifact, "a", "--max-new-tokens", 6, "--config", config)
    tokens = dllmc(*arguments, "--json").json["tokens"]
    runs = 1 + sum(a != b for a, b in itertools.pairwise(tokens))
    row = dllmc(*arguments).out.splitlines()[1]
    assert row.split()[:4] == ["1", "38", "6", "0-5"]
    assert sum(int(n) - 1 for n in re.findall(r" ×(\d+)", row)) == 6 - runs


def test_a_decode_that_is_saved_shows_the_same_as_the_decode(
    dllmc: Callable, artifact: Path, tmp_path: Path
) -> None:
    path, page = tmp_path / "a.jsonl", tmp_path / "a.html"
    arguments = ("trace", artifact, "sort: a", "--max-new-tokens", 8, "--config", BLOCKS)
    ran = dllmc(*arguments, "--save", path, "--html", page)
    assert ran.status == 0, ran.err
    assert ran.out.endswith(f"wrote {path}\nwrote {page}\n")
    views, _, _ = ran.out.partition("decoded with")
    assert dllmc("trace", path).out.startswith(views)
    trace = Trace.load(path)
    assert trace.config["commit"] == {"kind": "quota", "steps": 4}
    assert trace.pieces is not None
    assert set(trace.pieces) == set(trace.ids)
    assert all(0 < c <= 1 for step in trace for c in step.confidences)
    assert all(step.seconds > 0 and step.plan for step in trace)
    assert dllmc("trace", path, "--html", tmp_path / "b.html").status == 0
    assert (tmp_path / "b.html").read_bytes() == page.read_bytes()


def test_the_same_decode_twice_makes_the_same_decisions(
    dllmc: Callable, artifact: Path, tmp_path: Path
) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path in (one, other):
        arguments = ("trace", artifact, "sort: a", "--max-new-tokens", 8, "--config", BLOCKS)
        assert dllmc(*arguments, "--save", path).status == 0
    ran = dllmc("trace", one, other)
    assert ran.status == 0
    assert ran.out.endswith("\nthe decisions are the same\n")


def test_a_saved_trace_shows_its_steps_and_the_response_as_it_appears(
    dllmc: Callable, saved: Callable
) -> None:
    lines = [line.split() for line in dllmc("trace", saved(a_trace())).out.splitlines()]
    assert lines[1:4] == [
        ["1", "6", "2", "0", "2", "0.750", "500.0", "a", "b"],
        ["2", "3", "2,", "1", "replaced", "1-2", "0.500", "250.0", "b", "<|end|>"],
        ["3", "2", "1,", "1", "taken", "back", "0", "3", "0.000", "0.0", "<|mask|>", "<|end|>"],
    ]
    assert lines[6:9] == [
        ["1", "a", "·", "b", "·"],
        ["2", "a", "b", "<|end|>", "·"],
        ["3", "·", "b", "<|end|>", "<|end|>"],
    ]
    assert lines[11] == ["·", "b2", "<|end|>2"]
    assert lines[12][:7] == ["toy:", "3", "evaluations,", "3", "tokens,", "750.0", "ms;"]


def test_a_trace_without_texts_shows_ids(dllmc: Callable, saved: Callable, tmp_path: Path) -> None:
    ran = dllmc("trace", saved(a_trace(pieces=None)), "--html", tmp_path / "a.html")
    assert ran.out.splitlines()[6].split() == ["1", "7", "·", "6", "·"]
    assert Page((tmp_path / "a.html").read_text()).data["words"]["7"] == "7"


def test_a_trace_of_no_evaluation_is_shown(
    dllmc: Callable, saved: Callable, tmp_path: Path
) -> None:
    path = saved(a_trace(steps=(), tokens=()))
    ran = dllmc("trace", path, "--html", tmp_path / "a.html")
    assert ran.status == 0, ran.err
    assert dllmc("trace", path, path).status == 0


def test_no_token_controls_the_terminal(dllmc: Callable, saved: Callable) -> None:
    pieces = PIECES | {7: "\x1b[2J", 8: "[bold]\n\u202e"}
    shown = dllmc("trace", saved(a_trace(pieces=pieces))).out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\x1b[2J [bold]⏎\u202e" in shown


class Page(HTMLParser):
    """Tags and texts of a page, and what its script reads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._open == "script" else self.texts).append(data)

    @property
    def data(self) -> Any:
        return json.loads(self.scripts[0])


def test_the_page_has_every_step_and_needs_no_other_file(
    dllmc: Callable, saved: Callable, tmp_path: Path
) -> None:
    ran = dllmc("trace", saved(a_trace()), "--html", tmp_path / "a.html")
    assert ran.out.endswith(f"wrote {tmp_path / 'a.html'}\n")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert not {"src", "href"} & {name for _, attributes in page.tags for name in attributes}
    assert not re.search(r"https?:|@import|url\(", text)
    [slider] = [attributes for tag, attributes in page.tags if tag == "input"]
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "3")
    assert [step["positions"] for step in page.data["steps"]] == [[2, 4], [3, 4], [2, 5]]
    assert page.data["steps"][0]["said"] == "6: 2 of the prompt, response 0-3"
    assert (page.data["start"], page.data["end"], page.data["length"]) == (2, 5, 6)


def test_the_page_lets_its_own_script_run_and_no_other(
    dllmc: Callable, saved: Callable, tmp_path: Path
) -> None:
    dllmc("trace", saved(a_trace()), "--html", tmp_path / "a.html")
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    [policy] = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_nothing_of_a_trace_becomes_markup(
    dllmc: Callable, saved: Callable, tmp_path: Path
) -> None:
    evil = '</script><!--<script>alert(1)</script><img src=x onerror="alert(2)">\'&amp;\n\u2028'
    pieces = dict.fromkeys(PIECES, evil)
    config = {"commit": {"kind": evil}}
    steps = [dataclasses.replace(step, plan=evil) for step in a_trace()]
    path = saved(a_trace(pieces=pieces, model=evil, config=config, steps=steps))
    dllmc("trace", path, "--html", tmp_path / "a.html")
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in {tag for tag, _ in page.tags}
    shown = evil.replace("\n", "⏎").replace("\u2028", "\\u2028")
    assert set(page.data["words"].values()) == {shown}
    assert page.data["steps"][0]["plan"] == evil
    assert shown in "".join(page.texts)


def test_the_first_difference_is_shown_with_both_canvases(
    dllmc: Callable, saved: Callable
) -> None:
    one = a_trace()
    steps = list(one)
    steps[1] = dataclasses.replace(steps[1], tokens=(6, 2), confidences=(0.625, 1.0))
    paths = saved(one), saved(dataclasses.replace(one, steps=steps), "b.jsonl")
    ran = dllmc("trace", *paths)
    assert ran.status == 1
    assert ran.err == ""
    _, said = ran.out.split("first difference at evaluation 2: tokens\n")
    lines = [line.split() for line in said.splitlines()]
    assert lines[0] == ["A", "B"]
    assert lines[1] == ["rows", "3:", "response", "0-2", "3:", "response", "0-2"]
    assert lines[2:4] == [
        ["written", "1", "b", "(8)", "0.5000", "1", "b", "(6)", "0.6250"],
        ["2", "<|end|>", "(2)", "1.0000", "2", "<|end|>", "(2)", "1.0000"],
    ]
    assert lines[5:] == [
        ["the", "response", "before:"],
        ["a", "·", "b", "·"],
        ["after", "it,", "A:"],
        ["a", "b", "<|end|>", "·"],
        ["after", "it,", "B:"],
        ["a", "b", "<|end|>", "·"],
    ]
    found = json.loads(dllmc("trace", *paths, "--json").out)
    assert (found["equal"], found["evaluation"], found["fields"]) == (False, 2, ["tokens"])
    assert [[step["tokens"] for step in side] for side in found["steps"]] == [[[8, 2]], [[6, 2]]]


def test_another_configuration_is_said_beside_the_first_difference(
    dllmc: Callable, saved: Callable
) -> None:
    config = {"commit": {"kind": "threshold", "threshold": 0.5}}
    other = a_trace(config=config, steps=a_trace().steps[:2])
    ran = dllmc("trace", saved(a_trace()), saved(other, "b.jsonl"))
    assert ran.status == 1
    assert "config.commit.threshold: 0.9 and 0.5\n" in ran.out
    assert "first difference at evaluation 3: end\n" in ran.out
    assert "no such evaluation" in ran.out


def test_traces_of_different_prompts_differ_and_their_steps_are_not_compared(
    dllmc: Callable, saved: Callable
) -> None:
    paths = saved(a_trace()), saved(a_trace(prompt=(5, 7)), "b.jsonl")
    ran = dllmc("trace", *paths)
    assert ran.status == 1
    assert "the prompts differ from position 1 on: b and a, and steps of different" in ran.out
    assert "first difference" not in ran.out
    found = json.loads(dllmc("trace", *paths, "--json").out)
    assert found["settings"] == {"prompt": [[5, 6], [5, 7]]}


def test_confidences_and_plans_that_differ_are_said_beside_equal_decisions(
    dllmc: Callable, saved: Callable
) -> None:
    steps = list(a_trace())
    steps[1] = dataclasses.replace(steps[1], confidences=(0.25, 1.0))
    path = saved(a_trace())
    ran = dllmc("trace", path, saved(a_trace(steps=steps), "b.jsonl"))
    assert ran.status == 0
    assert "confidences differ from evaluation 2 on: 0.5000 and 0.2500 at 1\n" in ran.out
    steps[1] = dataclasses.replace(a_trace()[1], plan="w4")
    ran = dllmc("trace", path, saved(a_trace(steps=steps), "b.jsonl"))
    assert ran.status == 1
    assert "other plans from evaluation 2: w3 and w4\n\nthe decisions are the same\n" in ran.out


REFUSED = {
    "missing file": ("nope.jsonl", ["there is no trace `nope.jsonl`", "--save FILE.jsonl"]),
    "another file": ("OTHER", ["line 1 is not the header", "--save FILE.jsonl"]),
    "truncated line": ("CUT", ["line 4 is damaged", "save the trace again"]),
    "newer schema": ("NEWER", ["trace schema 2", "update dllmc"]),
    "compared with a prompt": ("FILE b", ["there is no trace `b`"]),
    "compared with what is cut": ("FILE CUT", ["line 4 is damaged"]),
    "page of two": ("FILE FILE --html PAGE", ["`--html` is of one trace", "leave it out"]),
    "saved again": ("FILE --save PAGE", ["`--save` is for a decode", "leave it out"]),
    "configuration": ("FILE --config SAFE", ["`--config` is for a decode", "leave it out"]),
    "prompt as ids": ("FILE --token-ids 5", ["`--token-ids` is for a decode"]),
    "page in no folder": ("FILE --html no/such/page", ["`--html`", "make it first"]),
    "trace in no folder": ("embedded a --save no/such/file", ["`--save`", "make it first"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_is_refused_in_one_line_with_status_2_and_changes_no_file(
    case: str, dllmc: Callable, hashes: Callable, saved: Callable, tmp_path: Path
) -> None:
    arguments, said = REFUSED[case]
    path = saved(a_trace())
    header, *lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join((header, *lines))[:-10])
    (tmp_path / "newer.jsonl").write_text(json.dumps(json.loads(header) | {"schema": 2}))
    (tmp_path / "other.txt").write_text('{"prompt": "a"}\n')
    names = {"FILE": "a.jsonl", "CUT": "cut.jsonl", "NEWER": "newer.jsonl", "OTHER": "other.txt"}
    paths = {word: tmp_path / name for word, name in (names | {"PAGE": "page"}).items()}
    before = hashes(tmp_path)
    ran = dllmc("trace", *(paths.get(word, word) for word in arguments.split()))
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert not [text for text in said if text not in ran.err], ran.err
    assert hashes(tmp_path) == before
