"""What `retarget` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dllmc.autotune.job import describe

if TYPE_CHECKING:
    from pathlib import Path

    from dllmc.autotune._front import Point
    from dllmc.autotune.prediction import Prediction
    from dllmc.autotune.timing import Ratio
    from dllmc.policies.config import DecodingConfig


@dataclass(frozen=True, slots=True)
class RetargetReport:
    """The outcome of `retarget`.

    Attributes:
        task: Name of the task.
        status: `confirmed`, or `safe` where nothing that is confirmed is faster here.
        reason: Why nothing is.
        config: What ships.
        ratio: Speed as a multiple of `SPEED_BASELINE`, timed end to end; None for `SAFE`.
        front: Configurations that nothing known is both faster and better than, by predicted
            speed.
        predictions: Predicted beside measured speed, of what was timed end to end.
        tested_again: Whether the numerics are of another class, so that quality was tested anew.
        unconfirmed: The fastest of the front that no job has confirmed, if it is predicted to be
            faster than what ships.
        seconds: By part of the work, and `all`.
        record: Id of the record.
        path: File of the record.
    """

    task: str
    status: Literal["confirmed", "safe"]
    reason: str | None
    config: DecodingConfig
    ratio: Ratio | None
    front: list[Point]
    predictions: list[Prediction]
    tested_again: bool
    unconfirmed: Point | None
    seconds: dict[str, float]
    record: str
    path: Path

    def lines(self) -> list[str]:
        """The same for people, one line each."""
        took = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        if self.ratio is None:
            found = [f"{self.task}: SAFE ships: {self.reason}"]
        else:
            found = [
                f"{self.task}: {describe(self.config)}: {self.ratio.median:.2f}x the speed of "
                f"SPEED_BASELINE here ({self.ratio.low:.2f}-{self.ratio.high:.2f}), quality as "
                + ("tested again here" if self.tested_again else "confirmed before")
            ]
        for item in self.predictions:
            found.append(
                f"  predicted {item.predicted:.2f}x, measured {item.measured:.2f}x "
                f"({item.error:+.1%}): {describe(item.config)}"
            )
        if self.unconfirmed is not None:
            found.append(
                f"  {describe(self.unconfirmed.config)} is predicted to have "
                f"{self.unconfirmed.ratio:.2f}x, but no job has confirmed it; dllmc tune would"
            )
        return [*found, took, f"record {self.record} in {self.path}"]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        return {
            "task": self.task,
            "status": self.status,
            "reason": self.reason,
            "config": self.config.model_dump(mode="json"),
            "ratio": None if self.ratio is None else self.ratio._asdict(),
            "front": [_point(point) for point in self.front],
            "predictions": [
                {
                    "config": item.config.model_dump(mode="json"),
                    "predicted": item.predicted,
                    "measured": item.measured,
                    "error": item.error,
                }
                for item in self.predictions
            ],
            "tested_again": self.tested_again,
            "unconfirmed": None if self.unconfirmed is None else _point(self.unconfirmed),
            "seconds": self.seconds,
            "record": self.record,
            "path": str(self.path),
        }


def _point(point: Point) -> dict[str, Any]:
    return {
        "config": point.config.model_dump(mode="json"),
        "ratio": point.ratio,
        "loss": point.loss,
        "n": point.n,
        "nfe": point.nfe,
        "confirmed": point.verdict is not None,
    }
