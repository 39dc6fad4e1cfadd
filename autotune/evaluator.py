"""Decoding with a configuration, and keeping what was learnt from it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.runtime.records import key_of
from dllmc.spec import TuningError
from dllmc.tuning_db import Key, Pair, QualityKey, SpeedKey, sample_id, split_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dllmc.runtime import Engine
    from dllmc.tasks import Sample, Task
    from dllmc.tuning_db import EvidenceStore, Objective, Outcome, QualityEvidence, SpeedEvidence
    from dllmc.tuning_db.evidence import Phase

NAMED: Final = {"QUALITY_REFERENCE": QUALITY_REFERENCE, "SPEED_BASELINE": SPEED_BASELINE}
"""The configurations that others are compared with."""


# On a busy machine a single decode of 40 ms is timed wrong by a factor of two now and then.
_LEAST_SECONDS: Final = 0.15


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts that are decoded together.

    Attributes:
        samples: The prompts.
        ids: Their ids in evidence.
        id: Of the batch.
    """

    samples: tuple[Sample, ...]
    ids: tuple[str, ...]
    id: str


def id_of(sample: Sample) -> str:
    """What evidence calls a prompt."""
    return sample_id(sample.prompt, sample.reference, sample.metric)


def batches(samples: Sequence[Sample], size: int) -> list[Batch]:
    """`samples` in groups of `size`; the last may be smaller."""
    found = []
    for start in range(0, len(samples), size):
        group = tuple(samples[start : start + size])
        ids = tuple(map(id_of, group))
        found.append(Batch(group, ids, split_digest(ids)[:16]))
    return found


class Evaluator:
    """Decodes batches of one workload; every outcome is on disk before the next batch starts.

    Args:
        engine: What decodes.
        task: What judges.
        max_new_tokens: Response length in tokens.
        batch: Prompts decoded together.
        evidence: Where outcomes and timings are kept.
        clock: Seconds from any start.
        objective: What is timed.
        reference: What decodes with `QUALITY_REFERENCE` in the engine's place: that of the model
            whose weights the engine's were rounded from. None is the engine.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        *,
        reference: Engine | None = None,
        max_new_tokens: int,
        batch: int,
        evidence: EvidenceStore,
        clock: Callable[[], float],
        objective: Objective = "throughput",
    ) -> None:
        self.engine = engine
        self.reference = reference
        self.task = task
        self.key: Key = key_of(
            engine,
            task=task.name,
            batch=batch,
            max_new_tokens=max_new_tokens,
            objective=objective,
        )
        self.decoded = 0
        self._evidence = evidence
        self._clock = clock
        self._quality: dict[str, QualityEvidence] = {}
        self._speed: dict[str, SpeedEvidence] = {}
        self._warm: set[str] = set()
        self._compiled: set[str] = set()

    def compile_decisions(self, configs: Iterable[DecodingConfig]) -> None:
        """Let each of `configs`, and no other, decide by a compiled function."""
        self._compiled = {config.canonical_json() for config in configs}
        self._warm -= self._compiled

    def compiles_decisions(self, config: DecodingConfig) -> bool:
        """Whether `config` decides by a compiled function."""
        return config.canonical_json() in self._compiled

    def at_batch(self, batch: int) -> Evaluator:
        """The same workload with another number of prompts decoded together."""
        other = Evaluator(
            self.engine,
            self.task,
            reference=self.reference,
            max_new_tokens=self.key.workload.max_new_tokens,
            batch=batch,
            evidence=self._evidence,
            clock=self._clock,
            objective=self.key.workload.objective,
        )
        other._compiled = self._compiled
        return other

    def outcomes(self, config: DecodingConfig) -> dict[str, Outcome]:
        """What is known of `config`, by id of the prompt."""
        return self.evidence(config).outcomes

    def knows(self, config: DecodingConfig, batch: Batch) -> bool:
        """Whether every prompt of `batch` was decoded with `config`."""
        return all(sample in self.outcomes(config) for sample in batch.ids)

    def pairs(self, config: DecodingConfig, against: str, phase: Phase) -> list[Pair]:
        """Timings of `config` next to the configuration called `against`."""
        found = self._speed_of(config).pairs
        return [pair for pair in found if pair.against == against and pair.phase == phase]

    def decode(self, config: DecodingConfig, batch: Batch) -> tuple[float, int]:
        """Seconds that the objective counts, and response tokens, of decoding `batch`.

        What is already known of a prompt stays: it counts once.

        Raises:
            ConfigError: The model cannot be decoded like this.
            PromptError: A prompt does not fit the model.
        """
        workload = self.key.workload
        self._prepare(config)
        begun = self._clock()
        output = self._decoder(config).generate(
            [sample.prompt for sample in batch.samples],
            max_new_tokens=workload.max_new_tokens,
            config=config,
            batch=len(batch.samples),
        )
        seconds = max(self._clock() - begun, 1e-9)
        if workload.objective == "first-block":
            # A response that ended early never had a whole first block: all of it counts.
            firsts = [seconds if t is None else t for t in output.first_block_seconds]
            seconds = max(sum(firsts) / len(firsts), 1e-9)
        self.decoded += len(batch.samples)
        self._warm.add(config.canonical_json())
        if output.text is None:
            raise TuningError(
                f"model `{self.engine.name}` has no tokenizer, and task `{self.task.name}` "
                "judges text; add tokenizer.json to the model"
            )
        evidence = self.evidence(config)
        new = False
        for index, (sample, name) in enumerate(zip(batch.samples, batch.ids, strict=True)):
            if name not in evidence.outcomes:
                plans = tuple((str(plan), int(count)) for plan, count in output.plans[index])
                correct = self.task.score(sample, output.text[index])
                evidence.add(name, correct, output.nfe[index], output.tokens[index], plans)
                new = True
        if new:
            self._evidence.save_quality(evidence)
        return seconds, sum(len(tokens) for tokens in output.tokens)

    def _decoder(self, config: DecodingConfig) -> Engine:
        """What decodes with `config`."""
        if self.reference is not None and config == QUALITY_REFERENCE:
            return self.reference
        return self.engine

    def _prepare(self, config: DecodingConfig) -> None:
        """What is compiled of `config` is said per structure, which others may share."""
        selects = getattr(self.engine, "selects", None)
        if selects is not None:
            selects.want(config, self.compiles_decisions(config))

    def time(
        self,
        config: DecodingConfig,
        against: str,
        batch: Batch,
        phase: Phase,
        *,
        first: bool = True,
    ) -> Pair:
        """Decode `batch` with `config` and with the configuration called `against`.

        What this process decodes with for the first time is decoded with twice, since the first
        time may compile; and short decodes are repeated in turns.

        Args:
            config: The one that is timed.
            against: A name of `NAMED`.
            batch: The prompts.
            phase: What the timing is for.
            first: Whether `config` goes before the other; alternate, so that drift cancels.
        """
        reference = NAMED[against]
        self.warm((config, reference), batch)
        seconds = other = 0.0
        tokens = 0
        while max(seconds, other) < _LEAST_SECONDS:
            for own in (first, not first):
                elapsed, count = self.decode(config if own else reference, batch)
                seconds, other = seconds + elapsed * own, other + elapsed * (not own)
                tokens += count * own
        return self.keep(config, against, batch, phase, seconds, other, tokens)

    def warm(self, configs: Iterable[DecodingConfig], batch: Batch) -> None:
        """Decode `batch` with each of `configs` that this process has not decoded with."""
        for config in configs:
            if config.canonical_json() not in self._warm:
                self.decode(config, batch)

    def keep(
        self,
        config: DecodingConfig,
        against: str,
        batch: Batch,
        phase: Phase,
        seconds: float,
        against_seconds: float,
        tokens: int,
    ) -> Pair:
        """File the timings of one batch with two configurations."""
        pair = Pair(
            batch=batch.id,
            against=against,
            seconds=seconds,
            against_seconds=against_seconds,
            tokens=tokens,
            phase=phase,
            id=uuid.uuid4().hex[:16],
        )
        evidence = self._speed_of(config)
        evidence.pairs.append(pair)
        self._evidence.save_speed(evidence)
        return pair

    def every_evidence(self) -> list[QualityEvidence]:
        """What is known of this workload's answers, of every configuration and numerics."""
        model, length = self.key.model, self.key.workload.max_new_tokens
        return [
            found
            for found in self._evidence.every_quality(model.weights_sha256)
            if (found.key.dtype, found.key.task, found.key.max_new_tokens)
            == (model.dtype, self.task.name, length)
        ]

    def of_numerics(self, numerics: str) -> Evaluator:
        """What is known of the same workload in another class of numerics; not to decode with."""
        other = self.at_batch(self.key.workload.batch)
        other.key = self.key.model_copy(update={"numerics": numerics})
        return other

    def evidence(self, config: DecodingConfig) -> QualityEvidence:
        """What is known of the answers of `config`."""
        name = config.canonical_json()
        if name not in self._quality:
            decoder = self._decoder(config)
            own = decoder is self.engine
            key = QualityKey(
                weights_sha256=decoder.weights_sha256,
                dtype=decoder.dtype,
                numerics=self.key.numerics if own else decoder.numerics,
                task=self.task.name,
                max_new_tokens=self.key.workload.max_new_tokens,
                config=as_json(config),
            )
            self._quality[name] = self._evidence.quality(key)
        return self._quality[name]

    def _speed_of(self, config: DecodingConfig) -> SpeedEvidence:
        name = config.canonical_json()
        if name not in self._speed:
            key = SpeedKey(
                weights_sha256=self.key.model.weights_sha256,
                dtype=self.key.model.dtype,
                numerics=self.key.numerics,
                hardware=self.key.hardware,
                software=self.key.software,
                execution=self.key.execution,
                workload=self.key.workload,
                config=as_json(config),
            )
            self._speed[name] = self._evidence.speed(key)
        return self._speed[name]


def as_json(config: DecodingConfig) -> dict[str, Any]:
    """`config` as a JSON object with every field written out."""
    value: dict[str, Any] = config.model_dump(mode="json")
    return value
