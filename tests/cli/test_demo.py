from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from dllmc.cli import demo
from dllmc.tuning_db import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.usefixtures("steady_clock")
def test_it_compiles_tunes_deploys_and_generates(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(checkpoint), "--folder", str(tmp_path), "--backend", "eager"]
    quick = ["--tasks", "copy", "--budget", "5s", "--trials", "1", "--batch", "4"]
    assert demo.main([*where, *quick, "--margin", "0.3"]) == 0
    out = capsys.readouterr().out
    [record] = Store(tmp_path / "demo-db").records()
    assert f"wrote {tmp_path / 'embedded.dllm'}" in out
    assert re.search(r"^copy, \d+ \w+ prompts +QUALITY_REFERENCE +0\.000 +16\.0", out, re.M)
    assert f"{record.id}  copy, {record.status}: " in out
    generated = out.partition("a fresh process")[2].splitlines()
    assert sum(line.startswith("prompt  copy: ") for line in generated) == 3
    assert sum(line.startswith("decoded with ") for line in generated) == 1


def test_an_unknown_task_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model", str(checkpoint), "--folder", str(tmp_path), "--backend", "eager"]
    assert demo.main([*where, "--tasks", "copi"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: there is no task `copi`; did you mean `copy`?"
    )
    assert not list(tmp_path.iterdir())
