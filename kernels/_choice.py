"""Which implementation of each operator is the fastest known for a device and dtype."""

from __future__ import annotations

import torch

from dllmc.kernels.linear import onednn_takes

_ROUNDED = ("int8_linear", "int4_linear")
_PACKED = ("linear", "head_statistics", "sampled_head_statistics")


def default_implementations(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Implementations by operator; those left out are `torch`."""
    if device.type != "cpu" or dtype == torch.float64:
        return {}
    packed = dict.fromkeys(_PACKED, "onednn") if onednn_takes(dtype) else {}
    if dtype == torch.bfloat16:
        packed |= dict.fromkeys(_ROUNDED, "packed")
    return packed | {"experts": "sorted"}
