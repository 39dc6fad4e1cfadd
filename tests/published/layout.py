"""Tiny random checkpoints in the layout of published ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def write(folder: Path, keys: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """A checkpoint in one weight file."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(keys)))
    save_file(dict(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def write_sharded(folder: Path, keys: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """The same in two weight files with an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(keys)))
    files: dict[str, str] = {}
    for part in range(2):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        names = sorted(tensors)[part::2]
        save_file({name: tensors[name] for name in names}, folder / file)
        files |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder
