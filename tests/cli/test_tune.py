from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dllmc.artifact import load_package
from dllmc.tuning_db import Store

if TYPE_CHECKING:
    from collections.abc import Callable

# Nothing that a random model answers is right, so that few prompts confirm anything.
QUICK = (
    *("--budget", "20s", "--trials", 2, "--batch", 4, "--max-new-tokens", 8, "--margin", 0.3),
    *("--space", "commit=quota", "--space", "commit.steps=2"),
)


@pytest.fixture(scope="module")
def tuned(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of its own to put records into."""
    return shutil.copytree(artifact, tmp_path_factory.mktemp("tuned") / "tuned.dllm")


def test_a_record_goes_into_the_database_and_the_artifact(
    dllmc: Callable, tuned: Path, own_database: Path, tmp_path: Path
) -> None:
    arguments = ("tune", tuned, "--task", "copy", *QUICK, "--into-artifact")
    ran = dllmc(*arguments)
    assert ran.status == 0, ran.err
    assert "QUALITY_REFERENCE" in ran.out
    assert f"1 records put into {tuned}" in ran.out
    [record] = Store(own_database).records()
    assert record.id in ran.out.replace("\n", "")
    assert load_package(tuned).records == [record.to_json()]
    assert len(record.smoke) == 4

    [again] = dllmc(*arguments, "--json").json
    assert (again["record"], again["trials"]) == (record.id, {**again["trials"], "complete": 2})
    page = json.loads(Path(again["page"]).with_suffix(".json").read_text(encoding="utf-8"))
    oracle, roofline = page["floors"]["oracle"], page["floors"]["roofline"]
    assert 1 <= oracle["nfe"] <= oracle["nfe_of"]["QUALITY_REFERENCE"] == 8
    assert oracle["nfe_of"]["tuned"] == 2
    assert roofline["times"] > 1

    elsewhere = ("--db", tmp_path / "elsewhere", "--task", "copy", "--max-new-tokens", 8)
    found = dllmc("generate", tuned, *(["copy: a"] * 4), *elsewhere, "--json").json
    assert {answer["record"] for answer in found} == {record.id}
    assert {answer["match"] for answer in found} == {"EXACT"}


def test_a_front_is_shown_and_its_records_go_into_the_artifact(
    dllmc: Callable, tuned: Path, own_database: Path
) -> None:
    arguments = ("tune", tuned, "--task", "sort", *QUICK, "--pareto", "--into-artifact")
    ran = dllmc(*arguments)
    assert ran.status == 0, ran.err
    assert "held-out prompts, intervals of 95 % for all at once" in ran.out
    confirmed = [r for r in Store(own_database).records() if r.key.workload.task == "sort"]
    assert f"{len(confirmed)} records put into {tuned}" in ran.out
    [again] = dllmc(*arguments, "--json").json
    assert again["limit"] == 1.0
    assert {row["record"] for row in again["front"]} == {record.id for record in confirmed}
    assert "--pareto --limit 1" in confirmed[0].provenance.command
