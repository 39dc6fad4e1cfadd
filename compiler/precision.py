"""What weights are rounded to: a lossy choice of compilation, by name."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Final

import torch

from dllmc.passes.quantise_weights import QuantiseWeightsConfig
from dllmc.spec import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.models import LoadedModel
    from dllmc.passes import PassConfig

PRECISIONS: Final = ("bfloat16", "int8", "int4", "bfloat16+int8", "bfloat16+int4")
"""Dtype of weights and activations, if it changes, and bits of the layers' weights."""

_PASS: Final = "quantise_weights"


def rounded(
    loaded: LoadedModel, precision: str | None, configs: Mapping[str, PassConfig]
) -> tuple[LoadedModel, dict[str, PassConfig], str | None]:
    """The model and the passes that make it of `precision`.

    Args:
        loaded: A model; it is not changed.
        precision: Of `PRECISIONS`, or None for what it comes in.
        configs: Options by pass, which may ask for rounding too.

    Returns:
        The model, options by pass, and what is rounded, None if nothing is.

    Raises:
        UsageError: There is no such precision, or the options say something else.
    """
    found = dict(configs)
    if precision is not None and precision not in PRECISIONS:
        raise UsageError(f"`precision`={precision!r} is unknown; {nearest(precision, PRECISIONS)}")
    dtype, _, bits = (precision or "").rpartition("+")
    if bits == "bfloat16":
        dtype, bits = bits, ""
    if bits:
        if _PASS in found:
            raise UsageError(f"both `precision` and pass `{_PASS}` say what to round to; give one")
        found[_PASS] = QuantiseWeightsConfig.model_validate(
            {"enabled": True, "bits": int(bits.removeprefix("int"))}
        )
    parts = []
    if dtype and any(p.dtype != torch.bfloat16 for p in loaded.module.parameters()):
        module = copy.deepcopy(loaded.module).to(torch.bfloat16)
        loaded = dataclasses.replace(loaded, module=module)
        parts.append(dtype)
    asked = found.get(_PASS)
    if isinstance(asked, QuantiseWeightsConfig) and asked.enabled:
        parts.append("int8" if asked.bits == 8 else f"int4 in groups of {asked.group}")
    return loaded, found, "+".join(parts) or None
