"""What a tuning record says: for what, which configuration, how fast, how good, and whence."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dllmc.spec import HardwareKey, TuningDatabaseError
from dllmc.tuning_db._files import canonical_json, digest, short_id

SCHEMA_VERSION: Final = 2
SMOKE_PROMPTS: Final = 4
"""Smoke prompts of a record at most: a test of them is to cost no more than a request."""

Status = Literal["searched", "confirmed", "rejected", "safe", "superseded"]
Reject = Literal["quality", "speed", "prompts", "time", "nothing-feasible"]
"""Why nothing is applied: too many answers lost; not surely faster; too few prompts for the
margin; too little time; no configuration kept its quality in the search."""
Objective = Literal["throughput", "latency", "first-block"]
"""What is to be short: the time of a batch of prompts; of a prompt alone; or until the first block
of a prompt is committed, which is what a reader waits for."""
Config = dict[str, Any]
"""A decoding configuration as JSON object; this room does not know policies."""


class Part(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelKey(Part):
    """Which weights, in which precision.

    Attributes:
        name: For people; not compared.
        family: Architecture, as `DenoiserSpec.family`.
        weights_sha256: Of the weights, hexadecimal.
        dtype: Of weights and activations, as torch spells it.
        graph_sha256: Of the rewritten graphs, hexadecimal; None where it is not known.
        passes_sha256: Of the passes that rewrote them and their settings; None likewise.
    """

    name: str
    family: str
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{16,64}$")
    dtype: str
    graph_sha256: str | None = None
    passes_sha256: str | None = None


class Workload(Part):
    """What is decoded.

    Attributes:
        task: Name of the task; None where a query names none.
        max_new_tokens: Length of the response, in tokens.
        batch: Sequences decoded together.
        objective: What is to be fast.
    """

    task: str | None
    max_new_tokens: int = Field(gt=0)
    batch: int = Field(gt=0)
    objective: Objective = "throughput"

    def identity(self) -> dict[str, Any]:
        """What tells workloads apart, as JSON."""
        value = self.model_dump(mode="json")
        if self.objective == "throughput":
            del value["objective"]  # the only one that schema 1 knew
        return value


class Key(Part):
    """Under which circumstances something was measured, or is asked for.

    Attributes:
        model: Weights and precision.
        hardware: The machine.
        software: Versions on which speed depends, by name: torch, dllmc, on a GPU the driver.
        execution: How steps are executed: `eager`, `inductor-dynamic` and so on.
        numerics: What decides the last bits: dtype, back-end family, matmul precision. Quality
            holds within one such class only.
        workload: Task, length and batch.
    """

    model: ModelKey
    hardware: HardwareKey
    software: dict[str, str]
    execution: str
    numerics: str
    workload: Workload

    def identity(self) -> dict[str, Any]:
        """What tells keys apart, as JSON: everything but the model's name.

        What is not known is left out, so that records of schema 1 keep their ids.
        """
        value = self.model_dump(mode="json")
        del value["model"]["name"]
        value["model"] = {k: v for k, v in value["model"].items() if v is not None}
        value["workload"] = self.workload.identity()
        return value

    def environment(self) -> dict[str, Any]:
        """What speed depends on besides model and workload, as JSON."""
        value = self.model_dump(mode="json")
        return {name: value[name] for name in ("hardware", "software", "execution")}


class Range(Part):
    """From `low` to `high`, both included."""

    low: int = Field(gt=0)
    high: int = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"`low`={self.low} must not exceed `high`={self.high}")
        return self

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low} to {self.high}"


class AppliesTo(Part):
    """Workloads that the record speaks for; nothing is extrapolated beyond them."""

    batch: Range
    max_new_tokens: Range


class Speed(Part):
    """End-to-end speed of the configuration in this environment.

    Attributes:
        metric: What is compared.
        n: Paired timings behind `ratio`.
        ratio: Median speed as a multiple of `SPEED_BASELINE`, timed interleaved.
        interval: 95 % interval of `ratio`; its ends are the extremes where `n` is under 6.
        reference_ratio: The same against `QUALITY_REFERENCE`.
        reference_interval: 90 % interval of it: one-sided 95 % at the low end.
        tokens_per_second: Response tokens per second of the whole batch.
        nfe_mean: Denoiser evaluations per prompt.
    """

    metric: str = "end-to-end seconds per batch"
    n: int = Field(gt=0)
    ratio: float = Field(gt=0)
    interval: tuple[float, float]
    reference_ratio: float = Field(gt=0)
    reference_interval: tuple[float, float]
    tokens_per_second: float = Field(ge=0)
    nfe_mean: float = Field(ge=0)


class Quality(Part):
    """Quality on prompts that the search has not seen.

    Attributes:
        metric: How answers are judged.
        n: Prompts, the same for both.
        reference: Name of the configuration compared with.
        reference_value: Share of prompts that it answers right.
        value: Share of prompts that this configuration answers right.
        difference: `value - reference_value`.
        lower_bound: One-sided lower confidence bound of the difference: 95 %, and for all of a
            front together where `test` says so.
        margin: Loss that was allowed.
        p_value: Of the hypothesis that the loss is at least `margin`.
        test: Name of the test.
        split: The part of the task's prompts.
        outcomes_sha256: Of the per-prompt outcomes of both.
    """

    metric: str
    n: int = Field(gt=0)
    reference: str = "QUALITY_REFERENCE"
    reference_value: float = Field(ge=0, le=1)
    value: float = Field(ge=0, le=1)
    difference: float = Field(ge=-1, le=1)
    lower_bound: float = Field(ge=-1, le=1)
    margin: float = Field(gt=0, lt=1)
    p_value: float = Field(ge=0, le=1)
    test: str
    split: str
    outcomes_sha256: str


class SplitId(Part):
    """Which prompts: how many, and the hash of their ids."""

    n: int = Field(ge=0)
    sha256: str


class Smoke(Part):
    """A prompt, and what the configuration answered.

    Attributes:
        prompt: Token ids.
        answer: Head of the hash of the response's token ids, see `answer_digest`.
    """

    prompt: tuple[int, ...] = Field(min_length=1)
    answer: str = Field(pattern=r"^[0-9a-f]{8}$")


class Provenance(Part):
    """Where a record comes from.

    Attributes:
        study: Name of the Optuna study.
        trial: Number of the trial in it; None for a configuration that was not searched.
        seed: Of search and prompts.
        started: Start of the job, ISO 8601 in UTC.
        command: What repeats the job.
        tune: Prompts of the search.
        confirm: Prompts of the confirmation.
        noise_floor: Half-width of the 95 % interval of a timing of the baseline against itself.
        margin: Loss of quality that the job allowed.
        host: Facts of the machine that are recorded and not compared: system, clocks.
    """

    study: str
    trial: int | None
    seed: int
    started: str
    command: str
    tune: SplitId
    confirm: SplitId
    noise_floor: float | None
    margin: float = Field(gt=0, lt=1)
    host: dict[str, str] = Field(default_factory=dict)


class Record(Part):
    """An entry of the tuning database.

    Attributes:
        schema_version: Of this schema.
        key: Circumstances of the measurement.
        applies_to: Workloads that it speaks for.
        config: The decoding configuration, every field written out: what answers depend on.
        neutral: Knobs that answers do not depend on, by name.
        speed: None where nothing was timed.
        quality: None where nothing was confirmed.
        status: `confirmed` may be applied; `safe` says that a job confirmed nothing and `SAFE`
            is the answer; `searched`, `rejected` and `superseded` are never applied.
        reject: Why it was rejected, or why nothing was confirmed, in one word.
        reason: The same in full.
        smoke: A few prompts, decoded together in this order, that tell other answers from those
            that were confirmed.
        provenance: Whence it comes.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    key: Key
    applies_to: AppliesTo
    config: Config
    neutral: dict[str, Any] = Field(default_factory=dict)
    speed: Speed | None
    quality: Quality | None
    status: Status
    reject: Reject | None = None
    reason: str | None = None
    smoke: tuple[Smoke, ...] = Field(default=(), max_length=SMOKE_PROMPTS)
    provenance: Provenance

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.key.workload.task is None:
            raise ValueError("`key.workload.task` must name a task")
        if self.status == "confirmed" and (self.speed is None or self.quality is None):
            raise ValueError("`status`='confirmed' needs `speed` and `quality`")
        if self.status in ("rejected", "safe") and not self.reason:
            raise ValueError(f"`status`={self.status!r} needs a `reason`")
        return self

    @property
    def id(self) -> str:
        """Hash of key and knobs: measuring the same again replaces the record."""
        knobs = {"config": self.config} | ({"neutral": self.neutral} if self.neutral else {})
        return short_id({"key": self.key.identity(), **knobs})

    @property
    def margin(self) -> float:
        """Loss of quality that was allowed."""
        return self.provenance.margin

    def to_json(self) -> dict[str, Any]:
        """What is written to a file; `id` and `sha256` are there as checks, and for people."""
        body = self.model_dump(mode="json")
        if not self.smoke:
            del body["smoke"]  # as before there were any, so that the hash stays
        return {"id": self.id, "sha256": digest(body), **body}

    @classmethod
    def from_json(cls, value: object) -> Record:
        """Read what `to_json` gave, or gave in an earlier version.

        Raises:
            TuningDatabaseError: It is not a record, is of a newer schema, or its id is not the
                hash of its key and configuration, or its hash not that of its contents.
        """
        if not isinstance(value, dict):
            raise TuningDatabaseError("is not a JSON object")
        body = migrated(value)
        written, checked = body.pop("id", None), body.pop("sha256", None)
        try:
            record = cls.model_validate_json(canonical_json(body))
        except (ValidationError, ValueError) as error:
            raise TuningDatabaseError(_one_line(error)) from None
        if written != record.id:
            raise TuningDatabaseError(
                f"has `id`={written!r} where its key and configuration hash to {record.id!r}"
            )
        # Schema 1 has no such hash.
        if value["schema_version"] == SCHEMA_VERSION and checked != digest(body):
            raise TuningDatabaseError("was changed after it was written")
        return record


def migrated(value: dict[str, Any]) -> dict[str, Any]:
    """A record as JSON in today's schema; nothing that it says is lost.

    Raises:
        TuningDatabaseError: It is of a newer schema, or of none.
    """
    version = value.get("schema_version")
    if version == 1:
        # Schema 2 added what schema 1 did not know: graphs, neutral knobs, words for reasons.
        return {**value, "schema_version": SCHEMA_VERSION}
    if version != SCHEMA_VERSION:
        raise TuningDatabaseError(
            f"has `schema_version`={version!r} and this dllmc reads up to {SCHEMA_VERSION}"
        )
    return dict(value)


def _one_line(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    parts = (
        f"`{'.'.join(map(str, item['loc']))}`: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors()
    )
    return "; ".join(parts)
