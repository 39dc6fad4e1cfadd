"""Programs that run steps: loaders and runners, one file per back end."""

from dllmc.runtime.programs.base import Programs, cache_shapes
from dllmc.runtime.programs.eager import EagerPrograms
from dllmc.runtime.programs.inductor import InductorPrograms

__all__ = ["EagerPrograms", "InductorPrograms", "Programs", "cache_shapes"]
