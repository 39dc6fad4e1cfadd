"""Which implementation of each operator is the fastest known for a device and dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.kernels.linear import onednn_takes

if TYPE_CHECKING:
    import torch

_PACKED = ("linear", "head_statistics", "sampled_head_statistics")


def default_implementations(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """Implementations by operator; those left out are `torch`."""
    if device.type == "cpu" and onednn_takes(dtype):
        return dict.fromkeys(_PACKED, "onednn")
    return {}
