"""Which implementation of each operator is the fastest known for a device and dtype."""

from __future__ import annotations

import importlib.util

import torch

from dllmc.kernels.linear import onednn_takes
from dllmc.kernels.rms_norm import HALF

_ROUNDED = ("int8_linear", "int4_linear")
# Measured in bfloat16; in float32 Triton's tiles of keys are small, and were not.
_TRITON_OF_HALF = {"cached_attention": "triton", "linear": "measured"}
_TRITON = {
    "head_statistics": "measured",
    "sampled_head_statistics": "measured",
    "sampled_statistics": "triton",
    "statistics": "triton",
}
_PACKED = ("linear", "head_statistics", "sampled_head_statistics")


def default_implementations(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Implementations by operator; those left out are `torch`."""
    if dtype == torch.float64:
        return {}
    if device.type == "cuda":
        half = _TRITON_OF_HALF if dtype in HALF else {}
        return _TRITON | half if _has_triton() else {}
    if device.type != "cpu":
        return {}
    packed = dict.fromkeys(_PACKED, "onednn") if onednn_takes(dtype) else {}
    if dtype == torch.bfloat16:
        packed |= dict.fromkeys(_ROUNDED, "packed")
    return packed | {"experts": "sorted"}


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
