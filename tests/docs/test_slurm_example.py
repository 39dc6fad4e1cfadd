"""The example of a SLURM array calls the command as it is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm_tuning.sh"


@pytest.mark.parametrize(("index", "helps"), [(0, False), (3, True)])
def test_the_first_of_the_array_brings_the_job_to_its_end(
    tmp_path: Path, index: int, helps: bool
) -> None:
    stand_in = tmp_path / "dllmc"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    ran = subprocess.run(
        [SCRIPT, "model.dllm", "copy", "/shared"],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": str(index),
            "BUDGET": "5m",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == [
        *("tune", "model.dllm", "--task", "copy", "--db", "/shared/db"),
        *("--storage", "journal:///shared/journal.log", "--budget", "5m"),
        *(["--worker"] if helps else []),
    ]
