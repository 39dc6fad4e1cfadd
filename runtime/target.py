"""Which machines ahead-of-time programs run on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final, Literal, get_args

import torch

from dllmc.artifact.binaries import Target
from dllmc.spec import ArtifactError, UsageError, nearest

Isa = Literal["x86-64-v3", "native"]

BASELINE: Final[Isa] = "x86-64-v3"
"""What is compiled for unless somebody says otherwise."""

# What the x86-64 psABI asks for beyond x86-64-v2, by Linux's names.
_V3: Final = ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
# What GCC and Inductor make use of where they may. Others (of virtualisation, say) do not matter.
_USED: Final = ("avx", "sse", "ssse", "bmi", "fma", "f16c", "movbe", "abm", "xsave", "amx", "vaes")
_USED_MORE: Final = ("vpclmulqdq", "gfni", "aes", "pclmulqdq", "sha", "adx", "rdseed", "popcnt")


def target_for(isa: str, device: torch.device) -> Target:
    """The target of programs that are compiled here.

    Args:
        isa: `x86-64-v3`, which any x86 server of the last ten years has, or `native`, this very
            machine's.
        device: Where they run.

    Raises:
        UsageError: There is no such target, or not on this kind of machine.
    """
    if isa not in get_args(Isa):
        raise UsageError(f"`target`={isa!r} is unknown; {nearest(isa, get_args(Isa))}")
    machine = platform.machine()
    if device.type == "cuda":
        features: tuple[str, ...] = (_architecture(device),)
    elif isa == "native":
        features = tuple(sorted(f for f in processor_features() if _is_used(f)))
    elif machine != "x86_64":
        raise UsageError(
            f"`target`='x86-64-v3' is not for `{machine}`, which this machine is; use 'native'"
        )
    else:
        features = _V3
    return Target.model_validate(
        {
            "device": device.type,
            "machine": machine,
            "isa": isa,
            "features": features,
            "torch": _version(),
        }
    )


def check_target(target: Target, device: torch.device, name: str) -> None:
    """See that programs made for `target` run on `device` of this machine.

    Machine code does not check this itself: what the processor lacks ends the process.

    Args:
        target: Of the programs.
        device: Where they are to run.
        name: Of the model, for the message.

    Raises:
        ArtifactError: They do not.
    """
    reason = _why_not(target, device)
    if reason is not None:
        raise ArtifactError(
            f"the ahead-of-time programs of `{name}` {reason}; make them for this machine with "
            "`dllmc rebuild ARTIFACT`, or decode with another back end (`--backend inductor`)"
        )


def processor_features() -> frozenset[str]:
    """What this processor can do, as Linux names it; empty where the system does not say."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


def _why_not(target: Target, device: torch.device) -> str | None:
    if target.torch != _version():
        return f"were compiled with torch {target.torch}, and this is torch {torch.__version__}"
    if target.device != device.type:
        return f"run on `{target.device}`, and the engine on `{device.type}`"
    if device.type == "cuda":
        here = _architecture(device)
        return None if target.features == (here,) else f"are for {target.features[0]}, not {here}"
    if target.machine != platform.machine():
        return f"are for `{target.machine}`, and this machine is `{platform.machine()}`"
    missing = sorted(set(target.features) - processor_features())
    if missing:
        return f"were made for {target.isa}, and this processor lacks {', '.join(missing)}"
    return None


def _is_used(feature: str) -> bool:
    return feature.startswith(_USED) or feature in _USED_MORE


def _architecture(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def _version() -> str:
    """Of torch, down to what its libraries' interface may change with."""
    return ".".join(torch.__version__.split(".")[:2])
