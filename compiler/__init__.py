"""From a denoiser to a compiled model: capture, pass manager, builders, reports."""

from dllmc.compiler.compiled import CompiledModel, compile_model

__all__ = ["CompiledModel", "compile_model"]
