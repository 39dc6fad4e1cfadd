"""Decoding with compiled programs."""

from dllmc.runtime.engine import Engine
from dllmc.runtime.output import Output
from dllmc.runtime.trace import Trace, TraceStep

__all__ = ["Engine", "Output", "Trace", "TraceStep"]
