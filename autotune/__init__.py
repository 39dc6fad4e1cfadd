"""The search for the decoding configuration that fits a task and a machine."""

from __future__ import annotations

from dllmc.autotune.budget import EFFORTS, FROM_EFFORT
from dllmc.autotune.front_report import FrontRow
from dllmc.autotune.progress import Progress, rich_progress
from dllmc.autotune.report import ReportRow, TuningReport, WorkerReport
from dllmc.autotune.retarget import retarget
from dllmc.autotune.retarget_report import RetargetReport
from dllmc.autotune.run import help_tune, tune
from dllmc.autotune.space import SearchSpace, search_space

__all__ = [
    "EFFORTS",
    "FROM_EFFORT",
    "FrontRow",
    "Progress",
    "ReportRow",
    "RetargetReport",
    "SearchSpace",
    "TuningReport",
    "WorkerReport",
    "help_tune",
    "retarget",
    "rich_progress",
    "search_space",
    "tune",
]
