"""Interleaved timing: every rival once per round, so that a machine's drift hits all alike."""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dllmc.runtime.hardware import detect_hardware

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one rival, one number per round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def spread(self) -> tuple[float, float]:
        """First and third quartile."""
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return first, third


def interleave(
    rivals: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 3,
    device: str = "cpu",
) -> dict[str, Timing]:
    """Time every rival `rounds` times, in turn, until `device` has finished what it was given."""
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(warmup + rounds):
        for name, run in rivals.items():
            begun = time.perf_counter()
            run()
            wait()
            elapsed = time.perf_counter() - begun
            if number >= warmup:
                seconds[name].append(elapsed)
    return {name: Timing(values) for name, values in seconds.items()}


def _nothing() -> None:
    """A CPU has finished when a call returns."""


def ratio(rival: Timing, base: Timing) -> tuple[float, float, float]:
    """Median and quartiles of rival / base, round by round."""
    ratios = [a / b for a, b in zip(rival.seconds, base.seconds, strict=True)]
    first, _, third = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), first, third


def environment(device: str = "cpu") -> dict[str, Any]:
    """What a result depends on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": detect_hardware(torch.device(device)).model_dump(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def write_results(name: str, rows: list[dict[str, Any]], device: str = "cpu") -> Path:
    """Keep the rows beside this file, with the environment they were measured in."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        json.dumps({"environment": environment(device), "rows": rows}, indent=1) + "\n"
    )
    return path
