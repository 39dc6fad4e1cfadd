"""From a denoiser to a compiled model: capture, pass manager, builders, reports."""

from dllmc.compiler.adapt import adapt
from dllmc.compiler.canonicalise import canonicalise
from dllmc.compiler.compiled import CompiledModel, compile_model

__all__ = ["CompiledModel", "adapt", "canonicalise", "compile_model"]
