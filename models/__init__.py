"""Plain denoisers, without caches or tricks, and the reading of their checkpoints.

A new architecture is one file of this package that defines `ARCHITECTURES` and one class with
`from_config`.
"""

from __future__ import annotations

from dllmc.models._loaded import LoadedModel
from dllmc.models._registry import architectures
from dllmc.models.checkpoint import load_checkpoint
from dllmc.models.loading import load_model
from dllmc.models.shapes import SHAPES

__all__ = ["SHAPES", "LoadedModel", "architectures", "load_checkpoint", "load_model"]
