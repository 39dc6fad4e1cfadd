"""The page of a job: whole in itself, true to its JSON, and safe whatever a name holds."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from planted_world import SPACE, PlantedEngine

from dllmc.autotune import tune
from dllmc.autotune.page import page, write
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.autotune import TuningReport


class Reader(HTMLParser):
    """Text, tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for name, v in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def job(path: Path, **options: Any) -> TuningReport:
    engine = PlantedEngine()
    wanted: dict[str, Any] = {"budget": 900, "batch": 64, "space": SPACE} | options
    return tune(engine, "copy", db=path, progress=None, clock=engine.clock, **wanted)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> TuningReport:
    return job(tmp_path_factory.mktemp("page"))


@pytest.fixture
def value(report: TuningReport) -> dict[str, Any]:
    return dict(json.loads(report.page.with_suffix(".json").read_text(encoding="utf-8")))


def test_the_page_needs_nothing_from_elsewhere(report: TuningReport) -> None:
    text = report.page.read_text(encoding="utf-8")
    found = read(text)
    assert found.addresses == []
    assert "http:" not in text
    assert "https:" not in text
    assert found.tags.count("script") == 1


def test_the_page_is_made_of_the_json_alone(report: TuningReport, value: dict[str, Any]) -> None:
    assert page(value) == report.page.read_text(encoding="utf-8")


def test_the_numbers_of_the_page_are_those_of_the_report(
    report: TuningReport, value: dict[str, Any]
) -> None:
    text = read(page(value)).text
    row = report.row("tuned")
    assert row is not None
    assert f"decodes {row.ratio:.2f} times as fast" in text
    assert f"{row.exact_match:.3f}" in text
    for verdict in report.verdicts:
        assert f"{verdict.lower_bound:+.3f}" in text
    assert value["circumstances"]["command"] in text
    assert report.record in text


def test_every_trial_is_there_with_what_became_of_it(
    report: TuningReport, value: dict[str, Any]
) -> None:
    assert len(value["trials"]) == sum(report.trials.values())
    outcomes = {trial["outcome"] for trial in value["trials"]}
    assert {"confirmed", "too lossy", "feasible", "reference"} <= outcomes
    assert all(t["why"] for t in value["trials"] if t["outcome"].startswith("too"))
    by_config = {json.dumps(t["config"]): t for t in value["trials"]}
    for verdict in value["report"]["verdicts"]:
        trial = by_config[json.dumps(verdict["config"])]
        assert trial["outcome"] == ("confirmed" if verdict["passed"] else "not confirmed")


def test_what_mattered_sums_to_one(value: dict[str, Any]) -> None:
    assert sum(value["importance"].values()) == pytest.approx(1)


def test_names_are_text_whatever_they_hold(value: dict[str, Any]) -> None:
    hostile = '<script>alert(1)</script><img src="http://x/">'
    bad = copy.deepcopy(value)
    bad["report"]["task"] = bad["circumstances"]["command"] = hostile
    bad["trials"][0]["words"] = hostile
    bad["report"]["notes"] = [hostile]
    found = read(page(bad))
    assert found.tags.count("script") == 1
    assert "img" not in found.tags
    assert hostile in found.text


@pytest.mark.parametrize(
    "options",
    [
        {"trials": 1, "budget": None},
        {"trials": 2, "budget": None, "space": SPACE | {"commit": "quota", "cache": "none"}},
    ],
    ids=["one trial", "nothing faster"],
)
def test_a_job_that_confirms_nothing_has_a_page(tmp_path: Path, options: dict[str, Any]) -> None:
    found = job(tmp_path, **options)
    text = read(found.page.read_text(encoding="utf-8")).text
    if found.status == "safe":
        assert "SAFE ships" in text
    assert found.page.parent == tmp_path / "reports"


def test_the_page_goes_where_it_is_told(tmp_path: Path) -> None:
    found = job(tmp_path / "db", report=tmp_path / "mine.html", trials=1, budget=None)
    assert found.page == tmp_path / "mine.html"
    assert (tmp_path / "mine.json").exists()


def test_what_is_no_report_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(TuningError, match="`version`=9"):
        page(value | {"version": 9})
    with pytest.raises(TuningError, match="no tuning report"):
        page({})


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, value: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuningError, match="cannot be written"):
        write(value, tmp_path / "file" / "page.html")
