"""What a module's own configuration says of it as a denoiser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dllmc.spec import DenoiserSpec, UsageError, nearest

if TYPE_CHECKING:
    from torch import nn

# Names that published configurations use.
_MASK = ("mask_token_id", "mask_id")
_LENGTH = ("max_sequence_length", "max_position_embeddings", "n_positions", "max_seq_len")
_EOS = ("eos_token_id", "eos_token_ids", "eos_id")
_BLOCK = ("block_length", "block_size", "bd_size")
# Beginnings of `model_type` of the families whose logits belong to the next position.
_SHIFTED = ("dream", "fast_dllm")
_MEANINGS = {
    "mask_id": "the token id of [MASK]",
    "max_length": "the longest canvas in tokens",
}


def complete_spec(
    module: nn.Module, given: DenoiserSpec | Mapping[str, Any] | None, width: int
) -> DenoiserSpec:
    """The spec of `module`: what is given, and for the rest what its configuration says.

    Args:
        module: A `config` attribute of it is read, with attributes or keys, and a
            `generation_config`.
        given: A whole spec, which is only checked; or some of its fields; or None.
        width: Of the logits that the module returned.

    Raises:
        UsageError: A field is missing, unknown or wrong, or does not fit the logits; the message
            names it and says how to give it.
    """
    name = type(module).__name__
    if isinstance(given, DenoiserSpec):
        spec = given
    else:
        spec = built_spec(name, _said_by_configuration(module, width) | dict(given or {}))
    if spec.vocab_size != width:
        raise UsageError(
            f"`vocab_size`={spec.vocab_size} does not fit {name}, whose logits are {width} wide; "
            f"give `vocab_size`={width}, padding included"
        )
    return spec


def _said_by_configuration(module: nn.Module, width: int) -> dict[str, Any]:
    configs = [getattr(module, name, None) for name in ("config", "generation_config")]
    said: dict[str, Any] = {"vocab_size": width}
    model_type = str(_first(configs, ("model_type",)) or "").lower()
    if model_type:
        said["family"] = model_type
    for field, names in (("mask_id", _MASK), ("max_length", _LENGTH)):
        value = _first(configs, names)
        if isinstance(value, int):
            said[field] = value
    said["eos_ids"] = _ids([_first([config], _EOS) for config in configs])
    if model_type.startswith(_SHIFTED):
        said["logit_shift"] = 1
    block = _first(configs, _BLOCK)
    if isinstance(block, int):
        said |= {"attention": "block_causal", "block_length": block}
    return said


def _first(configs: list[Any], names: tuple[str, ...]) -> Any:
    """The first value under one of `names` that is not None."""
    for config in configs:
        for name in names:
            value = (
                config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
            )
            if value is not None:
                return value
    return None


def _ids(values: list[Any]) -> tuple[int, ...]:
    found: list[Any] = []
    for value in values:
        found += value if isinstance(value, list | tuple) else [value]
    return tuple(dict.fromkeys(v for v in found if isinstance(v, int)))


def built_spec(name: str, fields: Mapping[str, Any]) -> DenoiserSpec:
    """The spec of the module called `name` from its fields.

    Raises:
        UsageError: A field is missing, unknown or wrong.
    """
    known = DenoiserSpec.model_fields
    if unknown := sorted(set(fields) - set(known)):
        raise UsageError(f"`spec` has no field `{unknown[0]}`; {nearest(unknown[0], known)}")
    if missing := [field for field in _MEANINGS if field not in fields]:
        asked = " and ".join(f"`{field}` ({_MEANINGS[field]})" for field in missing)
        example = ", ".join(f'"{field}": ...' for field in missing)
        raise UsageError(
            f"the configuration of {name} does not tell {asked}; give `spec`={{{example}}}, or a "
            "whole DenoiserSpec"
        )
    try:
        return DenoiserSpec.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        place = ".".join(str(part) for part in first["loc"])
        about = f"`{place}`={first['input']!r}: " if place else ""
        raise UsageError(f"the spec of {name} is wrong: {about}{said}") from None
