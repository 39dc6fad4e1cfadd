"""Tokens that end a response by `generation_config.json`, beside those of `config.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.models._json import read_json
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.spec import DenoiserSpec

FILE = "generation_config.json"


def with_stop_ids(spec: DenoiserSpec, folder: Path) -> DenoiserSpec:
    """`spec` with the file's `eos_token_id` too: SDAR's names the end of a turn only there.

    Raises:
        CheckpointError: The file is damaged, or the key holds no tokens of the vocabulary.
    """
    path = folder / FILE
    if not path.exists():
        return spec
    value = read_json(path).get("eos_token_id")
    ids = [value] if isinstance(value, int) else value
    if ids is None:
        return spec
    if not isinstance(ids, list) or not all(_is_token(token, spec) for token in ids):
        raise CheckpointError(
            f"{path}: `eos_token_id` is {value!r}; give tokens under the vocabulary size, "
            f"{spec.vocab_size}"
        )
    more = tuple(token for token in ids if token not in spec.eos_ids)
    return spec.model_copy(update={"eos_ids": (*spec.eos_ids, *dict.fromkeys(more))})


def _is_token(token: object, spec: DenoiserSpec) -> bool:
    return type(token) is int and 0 <= token < spec.vocab_size
