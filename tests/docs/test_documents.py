"""Every ```python and ```bash block of README.md and docs/ runs, in order, document by document.

Blocks after `<!-- not run: why -->` do not. Time-consuming options are shortened by `SHORTER`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

import dllmc
from dllmc.cli import app
from dllmc.policies._registry import kinds
from dllmc.policies.axes import AXES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(path for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
# What takes minutes in the documents takes seconds here, in the same way.
SHORTER = {
    "dllmc compile embedded -o model.dllm": "dllmc compile embedded -o model.dllm --backend eager",
    'backend="inductor"': 'backend="eager"',
    "dllmc retarget model.dllm --task copy": (
        "dllmc retarget model.dllm --task copy --budget 1s --max-new-tokens 8"
    ),
    "--budget 90s": "--budget 5s --trials 1 --batch 4 --max-new-tokens 8",
    'budget="90s"': 'budget="5s", trials=1, batch=4, max_new_tokens=8',
    "dllmc bench model.dllm --task copy --batch 16": (
        "dllmc bench model.dllm --task copy --batch 2 --prompts 2 --rounds 1"
    ),
}
# They compile one model or more, as the README does.
LONG = (
    *("ahead-of-time.md", "artifacts.md", "chat.md", "decoding.md", "foreign.md"),
    *("models.md", "onnx.md", "precision.md", "traces.md", "tuning.md"),
)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n)?^```(?P<kind>python|bash)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    kind: str
    text: str
    line: int
    why: str | None


def blocks_of(document: Path) -> Iterator[Block]:
    content = document.read_text(encoding="utf-8")
    for match in BLOCK.finditer(content):
        line = content.count("\n", 0, match.start()) + 1
        text = match["text"]
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        yield Block(match["kind"], text, line, match["why"])


def commands_of(text: str) -> list[list[str]]:
    """Words of each command; a line may go on after a backslash."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_commands(text: str) -> None:
    for command, *words in commands_of(text):
        assert command == "dllmc", f"`{command}` is not run by this test"
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"dllmc {shlex.join(words)}: {result.stderr}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the examples, and a database of its own."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLLMC_TUNING_DB", str(tmp_path / "database"))
    return tmp_path


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name in LONG else [])
        for path in DOCUMENTS
    ],
)
@pytest.mark.usefixtures("workplace", "steady_clock")
def test_what_a_document_shows_runs(document: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(document):
        if block.why is not None:
            continue
        if block.kind == "bash":
            run_commands(block.text)
        else:
            # Blank lines in front make tracebacks show the document's line numbers.
            code = compile("\n" * block.line + block.text, str(document), "exec")
            exec(code, names)


def test_everything_that_is_shortened_occurs() -> None:
    content = "".join(document.read_text() for document in DOCUMENTS)
    assert not [long for long in SHORTER if long not in content]


def test_make_knows_the_targets_that_the_readme_names() -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"^make (\S+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert named
    assert set(named) <= set(targets)


def test_every_policy_is_documented() -> None:
    content = (ROOT / "docs" / "decoding.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", content, re.MULTILINE))
    assert set(rows) >= set(AXES)
    missing = [
        f"{axis}/{kind}" for axis in AXES for kind in kinds(axis) if f"`{kind}`" not in rows[axis]
    ]
    assert not missing


def test_every_error_is_documented_with_its_status() -> None:
    content = (ROOT / "docs" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d) \|", content, re.MULTILINE))
    errors = {name: getattr(dllmc, name) for name in dllmc.__all__ if name.endswith("Error")}
    del errors["DllmcError"]
    assert rows == {name: str(error.exit_code) for name, error in errors.items()}


def test_links_of_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
