"""`package.module:function`: modules that are written elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F

import dllmc


class Theirs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(64, 32)
        self.qkv = nn.Linear(32, 96)
        self.head = nn.Linear(32, 64)

    def forward(self, tokens):
        hidden = self.embed(tokens)
        heads = self.qkv(hidden).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads.unbind(0))  # <script>alert("x")</script>
        return self.head(hidden + attended.transpose(1, 2).flatten(2))


def make():
    return Theirs(), dllmc.DenoiserSpec(mask_id=63, vocab_size=64, max_length=64)


def fail():
    raise RuntimeError("no weights\\nhere")


def bare():
    return Theirs()
"""
LENGTH = ("--config", '{"stop": {"kind": "length"}}', "--max-new-tokens", 8, "--json")


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, which the command finds by itself."""
    name = f"theirs_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/nowhere")  # What the command adds goes when the test ends.
    return name


def test_it_compiles_and_decodes_as_any_model(dllmc: Callable, theirs: str) -> None:
    made = dllmc("compile", f"{theirs}:make", "-o", "theirs.dllm", "--backend", "eager", "--json")
    assert made.json["model"] == f"{theirs}:make"
    arguments = ("--token-ids", "5,17,3", *LENGTH)
    by_artifact = dllmc("generate", "theirs.dllm", *arguments).json
    assert len(by_artifact["tokens"]) == 8
    assert dllmc("generate", f"{theirs}:make", *arguments).json == by_artifact
    reference = dllmc("generate", f"{theirs}:make", *arguments, "--engine", "reference").json
    assert reference == by_artifact


def test_dtype_reaches_its_weights(dllmc: Callable, theirs: str) -> None:
    options = ("-o", "wide.dllm", "--backend", "eager", "--dtype", "float64", "--json")
    assert dllmc("compile", f"{theirs}:make", *options).json["dtype"] == "float64"


def test_its_page_holds_its_source_and_runs_nothing(
    dllmc: Callable, theirs: str, tmp_path: Path
) -> None:
    ran = dllmc("explain", f"{theirs}:make", "--html", "page.html")
    assert ran.status == 0, ran.err
    assert ran.out.rstrip().endswith("wrote page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"{theirs}.py:20" in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mkae", "has no function `mkae`; did you mean `make`?"),
        ("fail", "fail()` fails (RuntimeError: no weights); it must take nothing"),
        ("bare", "mask_id"),
    ],
)
def test_a_function_that_makes_no_model_is_refused(
    dllmc: Callable, theirs: str, function: str, message: str
) -> None:
    ran = dllmc("compile", f"{theirs}:{function}", "-o", "out.dllm")
    assert (ran.status, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert message in ran.err


def test_a_module_that_is_not_there_is_refused(dllmc: Callable, theirs: str) -> None:
    ran = dllmc("compile", "no_such_package.models:make", "-o", "out.dllm")
    assert ran.status == 2
    assert "there is no module `no_such_package` to import" in ran.err
