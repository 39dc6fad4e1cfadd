"""Checkpoints by their name on the Hugging Face hub: `ORG/NAME`, or `ORG/NAME@REVISION`."""

from __future__ import annotations

import re
from pathlib import Path

from dllmc.spec import ModelNotFoundError

_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)
# What `load_checkpoint` reads. Code is never asked for, nor weights that have to be unpickled.
FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
    "*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_SUBFOLDERS = "*/*"


def is_hub_name(name: str) -> bool:
    """Whether `name` could be that of a repository on the hub."""
    return _NAME.fullmatch(name) is not None


def download(name: str) -> Path:
    """The folder of the checkpoint `name`, from the cache of `huggingface_hub` or the network.

    Raises:
        ModelNotFoundError: `huggingface_hub` is not installed, or could not get it.
    """
    found = _NAME.fullmatch(name)
    assert found is not None
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelNotFoundError(
            f"there is no folder `{name}`, and for a model of the hub huggingface_hub must be "
            "installed; `pip install huggingface_hub`, or give a checkpoint folder's path"
        ) from error
    try:
        folder = snapshot_download(
            found["repo"],
            revision=found["revision"],
            allow_patterns=list(FILES),
            ignore_patterns=[_SUBFOLDERS],
        )
    except Exception as error:  # Its own classes, those of its HTTP client, and the system's.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelNotFoundError(
            f"there is no folder `{name}`, and the hub did not give a model of that name "
            f"({type(error).__name__}: {reason}); check the name and the network, or give a "
            "checkpoint folder's path"
        ) from error
    return Path(folder)
