"""What machine this is, and with which software."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Final

import torch

from dllmc.spec import HardwareKey

# NVML's own size of the buffer.
_DRIVER_LENGTH: Final = 80


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


def detect_software(device: torch.device) -> dict[str, str]:
    """Versions on which the speed of `device` depends, by name."""
    versions = {"torch": torch.__version__, "dllmc": importlib.metadata.version("dllmc")}
    driver = driver_version() if device.type == "cuda" else None
    return versions if driver is None else {**versions, "driver": driver}


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


@functools.cache
def driver_version() -> str | None:
    """Version of the NVIDIA driver, such as `550.54.15`; None where there is none to be asked."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(_DRIVER_LENGTH)
    failed = nvml.nvmlSystemGetDriverVersion(text, _DRIVER_LENGTH)
    nvml.nvmlShutdown()
    return None if failed else text.value.decode()
