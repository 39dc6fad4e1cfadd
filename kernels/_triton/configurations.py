"""Block sizes, warps and stages of the Triton kernels, as measured for an architecture."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    Configuration = Mapping[str, int]

FALLBACK: Final = "other"
"""The architecture whose configurations hold for those that were not measured."""


@functools.cache
def table() -> dict[str, dict[str, list[dict[str, int]]]]:
    """Configurations by kernel and architecture, each for sizes `up_to` a limit, ascending."""
    text = resources.files(__package__).joinpath("configurations.json").read_text("utf-8")
    found: dict[str, dict[str, list[dict[str, int]]]] = json.loads(text)
    return found


def configuration(kernel: str, size: int, device: torch.device) -> Configuration:
    """What `kernel` is launched with: for the first limit that `size` keeps, or the last.

    Args:
        kernel: Its name in the table.
        size: That decides, mostly a number of rows.
        device: Where; on a CPU, that is in Triton's interpreter, as on an unknown GPU.
    """
    return _choice(kernel, size, architecture(device))


def architecture(device: torch.device) -> str:
    """`sm_90`, say; `other` for a CPU."""
    if device.type != "cuda":
        return FALLBACK
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@functools.cache
def _choice(kernel: str, size: int, which: str) -> Configuration:
    known = table()[kernel]
    choices = known.get(which, known[FALLBACK])
    chosen = next((one for one in choices if size <= one["up_to"]), choices[-1])
    return {name: value for name, value in chosen.items() if name != "up_to"}


def shipped(kernel: str, which: str | None = None) -> list[Configuration]:
    """Every configuration of `kernel`, each once; with an architecture, those of it alone."""
    known = table()[kernel]
    found = [one for name in known if which in (None, name) for one in known[name]]
    bare = [{name: n for name, n in one.items() if name != "up_to"} for one in found]
    return [one for index, one in enumerate(bare) if one not in bare[:index]]
