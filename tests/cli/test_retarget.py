from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.tuning_db import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Nothing that a random model answers is right, so that few prompts confirm anything.
WORK = ("--batch", 4, "--max-new-tokens", 8, "--margin", 0.3)
# With more trials the pick among equals is up to the clock.
SEARCH = ("--trials", 1, "--space", "commit=quota", "--space", "commit.steps=2")


def test_a_record_for_another_batch_comes_from_the_evidence_of_a_job(
    dllmc: Callable, artifact: Path, own_database: Path
) -> None:
    job = dllmc("tune", artifact, "--task", "copy", "--budget", "20s", *WORK, *SEARCH)
    assert job.status == 0, job.err
    [tuned] = Store(own_database).records()
    ran = dllmc("retarget", artifact, "--task", "copy", "--budget", "4s", *WORK, "--batch", 2)
    assert ran.status == 0, ran.err
    assert "predicted" in ran.out
    [new] = [r for r in Store(own_database).records() if r.id != tuned.id]
    assert new.key.workload.batch == 2
    assert new.config == tuned.config
    assert new.quality == tuned.quality


def test_without_a_job_before_the_error_says_what_to_run(
    dllmc: Callable, artifact: Path, tmp_path: Path
) -> None:
    ran = dllmc("retarget", artifact, "--task", "copy", "--db", tmp_path / "new")
    assert ran.status == 1
    assert "run dllmc tune once" in ran.err
