"""One class per user mistake. Every message names the value and what to do.

The command line prints the message alone and exits with `exit_code`: 2 where the command or its
input is wrong, 1 where something that should have worked did not.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class DllmcError(Exception):
    """Base of every error that dllmc raises on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(DllmcError, ValueError):
    """A value given by the user is wrong."""

    exit_code = 2


class ModelNotFoundError(UsageError):
    """No model stands at this path or under this name."""


class UnknownArchitectureError(UsageError):
    """`config.json` names an architecture that has no denoiser here."""


class CheckpointError(DllmcError):
    """A checkpoint is damaged or does not fit its configuration."""


class ConfigError(UsageError):
    """A decoding configuration is invalid or its parts do not go together."""


class PromptError(UsageError):
    """A prompt is empty, too long, or contains what only the decoder may write."""


class TaskError(UsageError):
    """An unknown task or metric, or a task file with a bad line."""


class TraceError(UsageError):
    """A file holds no decode trace, a damaged one, or one of a newer version."""


class CaptureError(DllmcError):
    """The module cannot be run, returns no logits, or torch.export could not capture it."""


class NotADenoiserError(DllmcError):
    """The module's attention is causal, so it cannot fill masks."""


class NotPositionWiseError(DllmcError):
    """The analysis found an operation that mixes positions outside attention."""


class PassError(DllmcError):
    """A pass matched fewer sites than the model must have."""


class VerificationError(DllmcError):
    """A graph after a pass does not compute what it computed before."""


class PlanError(UsageError):
    """Inputs do not fit any step plan, or a plan contradicts itself."""


class ArtifactError(DllmcError):
    """An artifact is damaged, incomplete or of another version."""


class TuningDatabaseError(DllmcError):
    """A tuning database is damaged or of a newer version."""


class TuningError(DllmcError):
    """A tuning job cannot start or cannot continue."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown `word`: the closest of `known`, if any is close, and the list."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`? Known: {', '.join(choices)}"
    return f"known: {', '.join(choices)}"
