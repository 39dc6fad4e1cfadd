"""A tiny model in the embedded model's layout, its artifact, and the command to run on them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from dllmc.cli import app
from dllmc.models.embedded import train
from dllmc.models.llada import LLaDA
from dllmc.tuning_db import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SMALL = {"d_model": 32, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": 64}


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


def invoke(*arguments: object) -> Ran:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def dllmc() -> Callable[..., Ran]:
    return invoke


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    tokenizer = train.build_tokenizer(train.training_tasks())
    config = train.configuration(tokenizer) | _SMALL
    model, _ = LLaDA.from_config(config)
    # As wide as after training: with smaller weights every token is as likely as any other.
    weights = {name: torch.randn_like(w) * 0.3 for name, w in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifacts") / "tiny.dllm"
    ran = invoke("compile", checkpoint, "-o", path, "--backend", "eager")
    assert ran.status == 0, ran.err
    return path


@pytest.fixture(autouse=True)
def own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's records but those of the test."""
    path = tmp_path / "database"
    monkeypatch.setenv("DLLMC_TUNING_DB", str(path))
    shipped = Store(tmp_path / "shipped", name="shipped", read_only=True)
    monkeypatch.setattr("dllmc.tuning_db.store.shipped", lambda: shipped)
    return path


@pytest.fixture
def hashes() -> Callable[..., dict[str, str]]:
    def find(*folders: Path) -> dict[str, str]:
        files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return find
