"""Names of the hub, against a stand-in for `huggingface_hub`: nothing here uses a network."""

from __future__ import annotations

import fnmatch
import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import save_file

from dllmc.models import load_model
from dllmc.models._hub import is_hub_name
from dllmc.spec import CheckpointError, ModelNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

# What lies in a published repository.
PUBLISHED = (
    "README.md",
    "config.json",
    "configuration_llada.py",
    "modeling_llada.py",
    "generation_config.json",
    "model.safetensors",
    "pytorch_model.bin",
    "model.pt",
    "original/consolidated.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "training_args.bin",
    "run.sh",
)


class Hub(ModuleType):
    """Remembers what was asked for, and gives `folder` or raises `failure`."""

    def __init__(self, folder: Path) -> None:
        super().__init__("huggingface_hub")
        self.folder = folder
        self.failure: Exception | None = None
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        self.calls.append((repo_id, options))
        if self.failure is not None:
            raise self.failure
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(write(tmp_path / "snapshots" / "4f1c0ffee"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    monkeypatch.chdir(tmp_path)
    return found


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    model = load_model("random:llada-tiny", seed=3)
    (folder / "config.json").write_text(json.dumps(dict(model.config)))
    save_file(model.module.state_dict(), folder / "model.safetensors")
    return folder


def test_a_name_of_the_hub_loads_from_the_folder_that_it_gives(hub: Hub) -> None:
    loaded = load_model("GSAI-ML/LLaDA-8B-Instruct")
    [(repo, options)] = hub.calls
    assert (repo, options["revision"]) == ("GSAI-ML/LLaDA-8B-Instruct", None)
    assert loaded.name == "GSAI-ML/LLaDA-8B-Instruct"
    assert loaded.source == hub.folder
    assert loaded.spec.family == "llada"


def test_a_revision_stands_behind_the_name(hub: Hub) -> None:
    loaded = load_model("ORG/model.v1@refs/pr/3")
    [(repo, options)] = hub.calls
    assert (repo, options["revision"]) == ("ORG/model.v1", "refs/pr/3")
    assert loaded.name == "ORG/model.v1@refs/pr/3"


def test_no_code_and_nothing_pickled_is_asked_for(hub: Hub) -> None:
    load_model("ORG/NAME")
    [(_, options)] = hub.calls
    asked = {
        name
        for name in PUBLISHED
        # As `huggingface_hub` matches: a star also stands for slashes.
        if any(fnmatch.fnmatch(name, pattern) for pattern in options["allow_patterns"])
        and not any(fnmatch.fnmatch(name, pattern) for pattern in options["ignore_patterns"])
    }
    assert asked == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "vocab.json",
        "merges.txt",
    }


def test_a_local_folder_of_that_name_wins(hub: Hub, tmp_path: Path) -> None:
    write(tmp_path / "ORG" / "NAME")
    assert load_model("ORG/NAME").name == "NAME"
    assert hub.calls == []


def test_dtype_reaches_the_weights(hub: Hub) -> None:
    import torch

    module = load_model("ORG/NAME", dtype=torch.bfloat16).module
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


def test_a_download_that_fails_says_why_in_one_line(hub: Hub) -> None:
    hub.failure = OSError("401 Client Error.\nRepository Not Found for url: ...")
    with pytest.raises(ModelNotFoundError) as caught:
        load_model("ORG/NAME")
    assert str(caught.value) == (
        "there is no folder `ORG/NAME`, and the hub did not give a model of that name "
        "(OSError: 401 Client Error.); check the name and the network, or give a checkpoint "
        "folder's path"
    )


def test_a_checkpoint_without_its_weights_is_refused_as_any_other(hub: Hub) -> None:
    (hub.folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="weights in other formats must be converted"):
        load_model("ORG/NAME")


def test_without_huggingface_hub_the_remedy_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"`pip install huggingface_hub`, or give a"):
        load_model("ORG/NAME")


@pytest.mark.parametrize(
    "name",
    ["NAME", "a/b/c", "./a", "../a", "/a/b", "~/a", "a/", "a/b@", "a/-b", "a b/c", "a\\b/c", ""],
)
def test_other_paths_never_reach_the_hub(hub: Hub, name: str) -> None:
    assert not is_hub_name(name)
    if name:
        with pytest.raises(ModelNotFoundError, match="there is no model"):
            load_model(name)
    assert hub.calls == []
