"""What the parts of a tuning job share."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dllmc.autotune.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna

    from dllmc.autotune.budget import Budget
    from dllmc.autotune.evaluator import Batch, Evaluator
    from dllmc.autotune.limits import Limits
    from dllmc.autotune.liveness import Watch
    from dllmc.autotune.progress import Callback, Part
    from dllmc.autotune.space import SearchSpace
    from dllmc.autotune.structural import Structure
    from dllmc.policies.config import DecodingConfig
    from dllmc.tasks import Task
    from dllmc.tuning_db import Objective, Store

# Seconds between two looks at who else is at work, which asks the storage.
_LOOK: Final = 5.0

# Changes whenever a study of an earlier protocol must not be continued.
PROTOCOL: Final = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for.

    Attributes:
        margin: Loss of quality that is allowed, as difference of shares of right answers.
        batch: Prompts decoded together.
        length: Response length in tokens.
        seed: Of search and prompts.
        trials: Trials in all, or None.
        narrowing: What to search of the space.
        command: What repeats the job.
        objective: What is to be fast.
        limit: Loss that configurations of a front may have; None where one is picked.
    """

    margin: float
    batch: int
    length: int
    seed: int
    trials: int | None
    narrowing: Mapping[str, Any]
    command: str
    objective: Objective = "throughput"
    limit: float | None = None

    @property
    def tolerated(self) -> float:
        """Loss beyond which the search gives a configuration up."""
        return self.margin if self.limit is None else self.limit


@dataclass(frozen=True, slots=True)
class Pilot:
    """What the preflight found.

    Attributes:
        tune: Prompts of the search.
        reference_seconds: Of `QUALITY_REFERENCE`, per prompt.
        baseline_seconds: Of `SPEED_BASELINE`, per prompt.
        reference_ratios: Speed of the reference as a multiple of the baseline's, per batch.
        discordance: Share of prompts that only one of reference and baseline answers right.
        noise_floor: Half-width of the interval of the baseline's ratio to itself.
        smallest_margin: That the prompts and the time left for them can confirm.
    """

    tune: list[Batch]
    reference_seconds: float
    baseline_seconds: float
    reference_ratios: list[float]
    discordance: float
    noise_floor: float
    smallest_margin: float


@dataclass(slots=True)
class Job:
    """A tuning job under way.

    Attributes:
        settings: What the user asked for.
        task: What judges.
        space: What is searched.
        evaluator: What decodes.
        study: The trials.
        store: Where records go.
        budget: The clock.
        callback: Who is told.
        storage: Of the study, for people.
        session: Of this process.
        watch: On the sessions of others.
        structure: Choices of execution.
        limits: Of memory and compiling.
        helps: Whether another process brings the job to its end.
        best: Highest speed so far as a multiple of the baseline's, quality permitting: of what
            keeps the margin, and for a front of what lost nothing.
    """

    settings: Settings
    task: Task
    space: SearchSpace
    evaluator: Evaluator
    study: optuna.Study
    store: Store
    budget: Budget
    callback: Callback
    storage: str
    session: str
    watch: Watch
    structure: Structure
    limits: Limits
    helps: bool = False
    best: float | None = None
    _saved: float = field(default=-1.0)
    _looked: float = field(default=-math.inf)
    _workers: int = field(default=1)

    def tell(
        self, part: Part, done: int = 0, total: int | None = None, message: str | None = None
    ) -> None:
        """Report progress, and note the time spent for a run that resumes this one."""
        spent = self.budget.spent
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked, self._workers = now, len(self.watch.alive())
        self.callback(
            Progress(
                part,
                done,
                total,
                spent,
                self.budget.total,
                self.best,
                workers=self._workers,
                message=message,
            )
        )
        if spent - self._saved >= 1 and not self.helps:
            self.save_spent()

    def save_spent(self) -> None:
        """Note the time spent, if the job's clock is this process's."""
        if self.helps:
            return
        self._saved = self.budget.spent
        self.study.set_user_attr("spent", self._saved)

    def seed_for(self, purpose: str) -> int:
        """A seed of this job's own for `purpose`."""
        text = f"{self.study.study_name}/{purpose}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def describe(config: DecodingConfig) -> str:
    """A configuration in a few words."""
    commit = config.commit.model_dump(exclude={"kind"})
    values = " ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in commit.values())
    if config.commit.kind == "quota" and commit["steps"] is None:
        values = "1 per step"
    refresh = getattr(config.cache, "refresh_every", None)
    cache = config.cache.kind + (f" refresh {refresh}" if refresh is not None else "")
    schedule = config.schedule.model_dump(exclude={"kind"})
    blocks = " ".join(str(value) for value in schedule.values())
    return f"{config.commit.kind} {values}, cache {cache}, {config.schedule.kind} {blocks}"
