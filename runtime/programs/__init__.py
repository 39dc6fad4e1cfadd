"""Programs that run steps: loaders and runners, one file per back end."""

from dllmc.runtime.programs.aot import AotPrograms
from dllmc.runtime.programs.base import Programs, cache_shapes
from dllmc.runtime.programs.captured import CapturedPrograms
from dllmc.runtime.programs.eager import EagerPrograms
from dllmc.runtime.programs.inductor import InductorPrograms
from dllmc.runtime.programs.onnx import OnnxPrograms
from dllmc.runtime.programs.selects import Selects
from dllmc.runtime.programs.tensorrt import TensorRTPrograms

__all__ = [
    "AotPrograms",
    "CapturedPrograms",
    "EagerPrograms",
    "InductorPrograms",
    "OnnxPrograms",
    "Programs",
    "Selects",
    "TensorRTPrograms",
    "cache_shapes",
]
