"""The plain decoder: the oracle of correctness, never optimised."""

from __future__ import annotations

from dllmc.reference._generate import Denoiser, ReferenceOutput, generate
from dllmc.reference._trace import StepTrace
from dllmc.reference.decoder import ReferenceDecoder

__all__ = ["Denoiser", "ReferenceDecoder", "ReferenceOutput", "StepTrace", "generate"]
