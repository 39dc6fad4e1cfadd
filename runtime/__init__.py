"""Decoding with compiled programs."""

from dllmc.runtime.engine import Engine
from dllmc.runtime.output import Output

__all__ = ["Engine", "Output"]
