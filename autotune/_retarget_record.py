"""The record of a configuration that was confirmed elsewhere and timed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dllmc.autotune._smoke import smoke_prompts
from dllmc.autotune.evaluator import as_json
from dllmc.tuning_db import (
    AppliesTo,
    Provenance,
    Quality,
    Range,
    Record,
    Speed,
    SplitId,
    split_digest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dllmc.autotune.evaluator import Batch, Evaluator
    from dllmc.autotune.timing import Ratio
    from dllmc.policies.config import DecodingConfig
    from dllmc.tuning_db import Reject
    from dllmc.tuning_db.verdicts import StoredVerdict


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What every record of one call shares.

    Attributes:
        evaluator: Of the workload here.
        tune: Prompts of the timings.
        margin: Loss of right answers that is allowed.
        seed: Of the prompts.
        started: ISO 8601 in UTC.
    """

    evaluator: Evaluator
    tune: Sequence[Batch]
    margin: float
    seed: int
    started: str

    def record(
        self,
        config: DecodingConfig,
        verdict: StoredVerdict | None = None,
        speed: Speed | None = None,
        reason: str | None = None,
        reject: Reject | None = None,
    ) -> Record:
        """Of `config`; without a verdict, that nothing was found."""
        key = self.evaluator.key
        workload, length = key.workload, key.workload.max_new_tokens
        tune = [name for batch in self.tune for name in batch.ids]
        held_out = SplitId(n=0, sha256=split_digest([]))
        if verdict is not None:
            held_out = SplitId(n=verdict.n, sha256=verdict.split_sha256)
        return Record(
            key=key,
            applies_to=AppliesTo(
                batch=Range(low=workload.batch, high=workload.batch),
                max_new_tokens=Range(low=length, high=length),
            ),
            config=as_json(config),
            smoke=() if verdict is None else smoke_prompts(self.evaluator, config, self.tune[0]),
            speed=speed,
            quality=None if verdict is None else quality_of(verdict),
            status="safe" if verdict is None else "confirmed",
            reject=reject,
            reason=reason,
            provenance=Provenance(
                study="retarget" if verdict is None else f"retarget of {verdict.study}",
                trial=None,
                seed=self.seed,
                started=self.started,
                command=(
                    f"dllmc retarget {self.evaluator.engine.name} --task "
                    f"{self.evaluator.task.name} --margin {self.margin:g} --batch {workload.batch}"
                ),
                tune=SplitId(n=len(tune), sha256=split_digest(tune)),
                confirm=held_out,
                noise_floor=None,
                margin=self.margin,
            ),
        )

    def speed(self, config: DecodingConfig, own: Ratio, against: Ratio, nfe: float) -> Speed:
        """Of `config`, from its timings next to the baseline.

        Args:
            config: The configuration.
            own: Speed as a multiple of the baseline's.
            against: The same of the reference's.
            nfe: Evaluations per prompt.
        """
        pairs = self.evaluator.pairs(config, "SPEED_BASELINE", "final")
        return Speed(
            n=own.n,
            ratio=own.median,
            interval=(own.low, own.high),
            reference_ratio=against.median,
            reference_interval=(against.low, against.high),
            tokens_per_second=sum(p.tokens for p in pairs) / sum(p.seconds for p in pairs),
            nfe_mean=nfe,
        )


def quality_of(verdict: StoredVerdict) -> Quality:
    """What a verdict says, as records say it."""
    right = verdict.reference_right + verdict.wins - verdict.losses
    return Quality(
        metric=verdict.metric,
        n=verdict.n,
        reference_value=verdict.reference_right / verdict.n,
        value=right / verdict.n,
        difference=(verdict.wins - verdict.losses) / verdict.n,
        lower_bound=verdict.lower_bound,
        margin=verdict.margin,
        p_value=verdict.p_value,
        test=verdict.test,
        split="confirm",
        outcomes_sha256=verdict.outcomes_sha256,
    )
