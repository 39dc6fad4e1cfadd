"""Facts and words shared by every room: what a denoiser, a step plan and an error are."""

from dllmc.spec.denoiser import DenoiserSpec
from dllmc.spec.errors import (
    ArtifactError,
    CaptureError,
    CheckpointError,
    ConfigError,
    DllmcError,
    ModelNotFoundError,
    NotADenoiserError,
    NotPositionWiseError,
    PassError,
    PlanError,
    PromptError,
    TaskError,
    TraceError,
    TuningDatabaseError,
    TuningError,
    UnknownArchitectureError,
    UsageError,
    VerificationError,
    nearest,
)
from dllmc.spec.hardware import HardwareKey
from dllmc.spec.plan import StepPlan, statistics_name, statistics_parts

__all__ = [
    "ArtifactError",
    "CaptureError",
    "CheckpointError",
    "ConfigError",
    "DenoiserSpec",
    "DllmcError",
    "HardwareKey",
    "ModelNotFoundError",
    "NotADenoiserError",
    "NotPositionWiseError",
    "PassError",
    "PlanError",
    "PromptError",
    "StepPlan",
    "TaskError",
    "TraceError",
    "TuningDatabaseError",
    "TuningError",
    "UnknownArchitectureError",
    "UsageError",
    "VerificationError",
    "nearest",
    "statistics_name",
    "statistics_parts",
]
