from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import dllmc
from dllmc.tasks import get_task

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize("task", ["copy", "words-to-sentence"])
def test_the_embedded_model_is_tuned_and_its_record_found(tmp_path: Path, task: str) -> None:
    engine = dllmc.compile("embedded", backend="eager").engine()
    engine.database = tmp_path
    options = {"budget": "120s", "margin": 0.05, "db": tmp_path, "progress": None}
    report = dllmc.tune(engine, task, **options)
    assert report.status == "confirmed", report.reason
    tuned, reference = report.row("tuned"), report.row("QUALITY_REFERENCE")
    assert tuned is not None
    assert reference is not None
    # One token per step takes 32 evaluations.
    assert tuned.nfe_mean < 16
    assert tuned.ratio > 2 * reference.ratio
    assert tuned.exact_match > reference.exact_match - 0.05
    # Copying needs nothing but the prompt; the words of a sentence depend on one another.
    assert report.baseline_passes is (task == "copy")

    prompts = [sample.prompt for sample in get_task(task).samples("test", 16)]
    found = engine.generate(prompts, task=task, max_new_tokens=32)
    assert (found.record, found.match) == (report.record, "EXACT")
    assert found.config == report.config
    other = engine.generate(prompts, task="sort", max_new_tokens=32)
    assert other.match == "SAFE"

    again = dllmc.tune(engine, task, **options)
    assert again.record == report.record
