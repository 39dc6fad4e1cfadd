"""Back ends by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dllmc.runtime.programs import (
    AotPrograms,
    CapturedPrograms,
    EagerPrograms,
    InductorPrograms,
    OnnxPrograms,
    Programs,
    TensorRTPrograms,
)
from dllmc.spec import UsageError, nearest

if TYPE_CHECKING:
    import torch

    from dllmc.artifact import Package

BACKENDS: Final = ("eager", "inductor", "aot", "onnxruntime", "tensorrt")

MADE_BEFORE: Final = ("aot", "onnxruntime", "tensorrt")
"""Those of them whose programs are made when a model is compiled, for the plans asked for."""


def programs_of(
    package: Package, backend: str, device: torch.device, *, capture: bool, helper: bool = False
) -> Programs:
    """The programs of `package`.

    Args:
        package: Whose graphs run.
        backend: One of `BACKENDS`.
        device: Where.
        capture: Whether compiled steps are captured as CUDA graphs.
        helper: Whether the package is one that a policy asks beside the model: run node by node
            where it brings no programs for the back end.

    Raises:
        ArtifactError: Its ahead-of-time programs are for another machine.
        UsageError: The back end is unknown, or the package has no programs for it.
    """
    if backend not in BACKENDS:
        raise UsageError(f"`backend`={backend!r} is unknown; {nearest(backend, BACKENDS)}")
    made = {
        "aot": package.binaries,
        "onnxruntime": package.exports,
        "tensorrt": package.engines,
    }
    if backend == "eager" or (helper and backend in made and made[backend] is None):
        return EagerPrograms(package)
    if backend == "onnxruntime":
        return OnnxPrograms(package, device)
    if backend == "tensorrt":
        return TensorRTPrograms(package, device)
    compiled: Programs
    if backend == "aot":
        compiled = AotPrograms(package, device)
    else:
        compiled = InductorPrograms(package, device)
    return CapturedPrograms(compiled) if capture else compiled
