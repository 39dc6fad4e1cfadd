"""What a tuning job found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dllmc.autotune.front_report import FrontRow, front_table
from dllmc.autotune.job import describe
from dllmc.autotune.prediction import median_error

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Group

    from dllmc.autotune.judging import Verdict
    from dllmc.autotune.prediction import Prediction
    from dllmc.policies.config import DecodingConfig


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One configuration on the same prompts as the other rows.

    Attributes:
        name: `QUALITY_REFERENCE`, `SPEED_BASELINE` or `tuned`.
        config: The configuration.
        split: The part of the task's prompts: `confirm`, or `tune` where nothing was confirmed.
        n: Prompts.
        exact_match: Share of right answers.
        nfe_mean: Denoiser evaluations per prompt.
        tokens_per_second: Response tokens per second of the whole batch.
        ratio: Speed as a multiple of `SPEED_BASELINE`.
        interval: 95 % interval of `ratio`.
    """

    name: str
    config: DecodingConfig
    split: str
    n: int
    exact_match: float
    nfe_mean: float
    tokens_per_second: float
    ratio: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a process did that helped with a job.

    Attributes:
        task: Name of the task.
        study: Name of the Optuna study.
        storage: Of the study, without a password.
        trials: Configurations that it evaluated.
        spent: Seconds.
    """

    task: str
    study: str
    storage: str
    trials: int
    spent: float

    def __str__(self) -> str:
        return (
            f"{self.task}: evaluated {self.trials} configurations of study {self.study} in "
            f"{self.storage}, in {self.spent:.0f} s"
        )


@dataclass(frozen=True, slots=True)
class TuningReport:
    """The outcome of `dllmc.tune`.

    Attributes:
        task: Name of the task.
        status: `confirmed`, or `safe` where nothing passed and `SAFE` ships.
        reason: Why nothing passed; None if something did.
        config: What ships.
        rows: Reference, baseline and, if there is one, the tuned configuration.
        verdicts: The tests on held-out prompts, in their order.
        baseline_passes: Whether `SPEED_BASELINE` itself keeps the margin; None if the prompts
            that there was time for do not tell.
        margin: Loss of quality that was allowed.
        smallest_margin: That the prompts and the budget could have confirmed, at the discordance
            of the baseline.
        noise_floor: Half-width of the interval of a timing of the baseline against itself.
        trials: Configurations evaluated in full, stopped early, and refused.
        spent: Seconds, those of resumed runs included.
        record: Id of the record.
        path: File of the record.
        study: Name of the Optuna study.
        storage: Of the Optuna study, without a password.
        predictions: Predicted beside measured speeds of the short list, where there was time.
        notes: What else is worth knowing, one line each.
        page: The same and more, as HTML; its JSON is beside it.
        front: Of a job that was asked for it, slowest first; `config`, `record` and the row
            `tuned` are then of its fastest member that keeps the margin.
        limit: Loss of quality that the front was searched for; None without a front.
    """

    task: str
    status: str
    reason: str | None
    config: DecodingConfig
    rows: list[ReportRow]
    verdicts: list[Verdict]
    baseline_passes: bool | None
    margin: float
    smallest_margin: float
    noise_floor: float
    trials: dict[str, int]
    spent: float
    record: str
    path: Path
    study: str
    storage: str
    predictions: list[Prediction]
    notes: list[str]
    page: Path
    front: list[FrontRow] = field(default_factory=list)
    limit: float | None = None

    @property
    def paths(self) -> list[Path]:
        """Files of all records, that of `record` first."""
        others = [row.path for row in self.front[::-1] if row.path is not None]
        return list(dict.fromkeys([self.path, *others]))

    def row(self, name: str) -> ReportRow | None:
        """The row called `name`, if there is one."""
        return next((row for row in self.rows if row.name == name), None)

    def render(self) -> Group:
        """Tables and lines for a rich console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        first = self.rows[0]
        title = f"{self.task}: {first.n} {first.split} prompts, margin {self.margin:g}"
        table = Table("", "exact match", "NFE", "tokens/s", "speed", "decoding", title=title)
        for column in table.columns[1:5]:
            column.justify = "right"
        for row in self.rows:
            low, high = row.interval
            speed = f"{row.ratio:.2f}x"
            if low < high:
                speed += f" ({low:.2f}-{high:.2f})"
            table.add_row(
                row.name,
                f"{row.exact_match:.3f}",
                f"{row.nfe_mean:.1f}",
                f"{row.tokens_per_second:.0f}",
                speed,
                describe(row.config),
            )
        shown = [front_table(self.front, self.margin)] if self.front else []
        return Group(table, *shown, *(Text(line) for line in self._lines()))

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON."""
        value = asdict(self)
        value["config"] = self.config.model_dump(mode="json")
        for row, source in zip(value["rows"], self.rows, strict=True):
            row["config"] = source.config.model_dump(mode="json")
        for verdict, tested in zip(value["verdicts"], self.verdicts, strict=True):
            verdict["config"] = tested.config.model_dump(mode="json")
            verdict["difference"] = tested.difference
        for item, predicted in zip(value["predictions"], self.predictions, strict=True):
            item["config"] = predicted.config.model_dump(mode="json")
            item["error"] = predicted.error
        value["front"] = [row.to_json() for row in self.front]
        return value | {"path": str(self.path), "page": str(self.page)}

    def _lines(self) -> list[str]:
        lines = []
        if self.status == "confirmed":
            passed = [verdict for verdict in self.verdicts if verdict.passed][-1]
            lines.append(
                f"confirmed on {passed.n} held-out prompts: loses less than "
                f"{max(0.0, -passed.lower_bound):.1%} (95 %), p = {passed.p_value:.3f}"
            )
            if self.front:
                lines.append(f"{len(self.paths)} records of the front, the fastest in force")
        else:
            lines.append(f"nothing was confirmed, SAFE ships: {self.reason}")
        verdict = {
            True: "keeps this margin itself",
            False: "does not keep this margin",
            None: "may keep this margin or not, the prompts do not tell",
        }
        lines.append(f"SPEED_BASELINE {verdict[self.baseline_passes]}")
        counts = ", ".join(f"{count} {name}" for name, count in self.trials.items())
        lines.append(
            f"{counts} trials in {self.spent:.0f} s; smallest margin confirmable "
            f"{self.smallest_margin:.3f}; timing noise {self.noise_floor:.1%}"
        )
        error = median_error(self.predictions)
        if error is not None:
            lines.append(
                f"speeds of {len(self.predictions)} configurations predicted from their steps: "
                f"median error {error:.1%}"
            )
        return [*lines, *self.notes, f"record {self.record} in {self.path}", f"page {self.page}"]
