"""What machine this is."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from dllmc.spec import HardwareKey


def detect_hardware(device: torch.device) -> HardwareKey:
    """The key of `device` as measurements on it are filed."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return HardwareKey(
            kind="cuda",
            name=properties.name,
            architecture=f"sm_{properties.major}{properties.minor}",
            units=properties.multi_processor_count,
            memory_gib=round(properties.total_memory / 2**30),
        )
    return HardwareKey(
        kind="cpu",
        name=_processor(),
        architecture=f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability().lower()}",
        units=torch.get_num_threads(),
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
