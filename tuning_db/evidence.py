"""What was learnt, apart from what was concluded: two tables, one file per configuration.

Quality evidence is independent of the machine, speed evidence of the task's answers:

    <root>/v2/evidence/quality/<weights, 16 digits>/<id>.json
    <root>/v2/evidence/speed/<hardware id>/<weights, 16 digits>/<id>.json

A tuning job resumes from them, and nothing that is in them is measured again. What an earlier
version wrote under the same key is taken up.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import Field, ValidationError

from dllmc.spec import HardwareKey  # noqa: TC001 - pydantic reads it at run time
from dllmc.tuning_db._files import answer_digest, digest, folder_name, locked, short_id
from dllmc.tuning_db.record import Config, Part, Workload
from dllmc.tuning_db.store import EVIDENCE, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

PlanRuns = tuple[tuple[str, int], ...]
"""The plans of one prompt's evaluations in order, run-length coded: key of the plan, count."""

Phase = Literal["search", "final", "structure"]


class Outcome(NamedTuple):
    """How one prompt was decoded.

    Attributes:
        correct: Whether the answer is right.
        nfe: Denoiser evaluations.
        answer: Head of the hash of the answer's token ids: equal answers have equal ones.
        plans: Index of the sequence of plans in `QualityEvidence.sequences`.
    """

    correct: bool
    nfe: int
    answer: str
    plans: int


class QualityKey(Part):
    """What the answers depend on."""

    weights_sha256: str
    dtype: str
    numerics: str
    task: str
    max_new_tokens: int
    config: Config

    @property
    def id(self) -> str:
        """What its file is called."""
        return short_id(self.model_dump(mode="json"))


class QualityEvidence(Part):
    """Outcomes of one configuration by prompt.

    Attributes:
        key: What the answers depend on.
        plans: Keys of the plans that occur.
        sequences: Distinct sequences of plans: index in `plans` and count, run-length coded.
        outcomes: By id of the prompt, see `sample_id`.
    """

    schema_version: Literal[1] = 1
    key: QualityKey
    plans: list[str] = Field(default_factory=list)
    sequences: list[tuple[tuple[int, int], ...]] = Field(default_factory=list)
    outcomes: dict[str, Outcome] = Field(default_factory=dict)

    def add(
        self, sample: str, correct: bool, nfe: int, tokens: Sequence[int], plans: PlanRuns
    ) -> None:
        """Take up the outcome of one prompt; a second one for the same prompt replaces it."""
        for plan, _ in plans:
            if plan not in self.plans:
                self.plans.append(plan)
        sequence = tuple((self.plans.index(plan), count) for plan, count in plans)
        if sequence not in self.sequences:
            self.sequences.append(sequence)
        answer = answer_digest(tokens)
        self.outcomes[sample] = Outcome(correct, nfe, answer, self.sequences.index(sequence))

    def plans_of(self, sample: str) -> PlanRuns:
        """The plans of the evaluations of `sample`, as they were given to `add`."""
        sequence = self.sequences[self.outcomes[sample].plans]
        return tuple((self.plans[plan], count) for plan, count in sequence)

    def without_plans(self) -> Self:
        """The outcomes alone: schema 1 kept the plans of the batch that a prompt was in."""
        outcomes = {name: outcome._replace(plans=0) for name, outcome in self.outcomes.items()}
        return self.model_copy(update={"plans": [], "sequences": [()], "outcomes": outcomes})

    def absorb(self, other: Self) -> None:
        """Take up outcomes of `other` for prompts that have none here."""
        for sample in [name for name in other.outcomes if name not in self.outcomes]:
            outcome, plans = other.outcomes[sample], other.plans_of(sample)
            self.add(sample, outcome.correct, outcome.nfe, (), plans)
            self.outcomes[sample] = self.outcomes[sample]._replace(answer=outcome.answer)


class SpeedKey(Part):
    """What end-to-end timings of a configuration depend on."""

    subject: Literal["end-to-end"] = "end-to-end"
    weights_sha256: str
    dtype: str
    numerics: str
    hardware: HardwareKey
    software: dict[str, str]
    execution: str
    workload: Workload
    config: Config

    @property
    def id(self) -> str:
        """What its file is called."""
        value = self.model_dump(mode="json")
        value["workload"] = self.workload.identity()
        return short_id(value)


class Pair(Part):
    """One batch of prompts decoded by this configuration and by another, one after the other.

    Attributes:
        batch: Hash of the prompts' ids.
        against: Name of the other configuration.
        seconds: Of this configuration.
        against_seconds: Of the other.
        tokens: Response tokens that this configuration gave.
        phase: `search`, or `final` where selection can no longer favour lucky timings.
        id: Unique; empty in files of earlier versions.
    """

    batch: str
    against: str
    seconds: float = Field(gt=0)
    against_seconds: float = Field(gt=0)
    tokens: int = Field(ge=0)
    phase: Phase
    id: str = ""

    @property
    def ratio(self) -> float:
        """Speed as a multiple of the other's."""
        return self.against_seconds / self.seconds


class SpeedEvidence(Part):
    """Timings of one configuration in one environment."""

    schema_version: Literal[1] = 1
    key: SpeedKey
    pairs: list[Pair] = Field(default_factory=list)

    def absorb(self, other: Self) -> None:
        """Take up timings of `other` that are not known here."""
        known = {pair.id for pair in self.pairs if pair.id}
        # Those without an id are as they were read, by whoever read them.
        old = len([pair for pair in self.pairs if not pair.id])
        theirs = [pair for pair in other.pairs if not pair.id][old:]
        self.pairs.extend(theirs)
        self.pairs.extend(p for p in other.pairs if p.id and p.id not in known)


_Evidence = TypeVar("_Evidence", QualityEvidence, SpeedEvidence)


class EvidenceStore:
    """The evidence in a tuning database; damaged files count as absent.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def quality(self, key: QualityKey) -> QualityEvidence:
        """What is known of the answers under `key`."""
        own, *earlier = self._paths(self.quality_path(key))
        found = read_evidence(own, QualityEvidence)
        if found is None or found.key != key:
            found = QualityEvidence(key=key)
        for path in earlier:
            known = read_evidence(path, QualityEvidence)
            if known is not None and known.key == key:
                found.absorb(known.without_plans())
        return found

    def every_quality(self, weights_sha256: str) -> Iterator[QualityEvidence]:
        """What is known of the answers of these weights, of every configuration and task."""
        seen = set()
        for root in (self._store.folder, *self._store.earlier):
            folder = root / EVIDENCE / "quality" / weights_sha256[:16]
            for path in sorted(folder.glob("*.json")):
                found = read_evidence(path, QualityEvidence)
                if found is None or found.key.weights_sha256 != weights_sha256:
                    continue
                if path.name not in seen:
                    seen.add(path.name)
                    yield self.quality(found.key)

    def save_quality(self, evidence: QualityEvidence) -> None:
        """Write `evidence`, with what others have written for the same key meanwhile.

        Raises:
            TuningDatabaseError: The database cannot be written.
        """
        path = self.quality_path(evidence.key)
        with locked(path):
            evidence.absorb(self.quality(evidence.key))
            self._store.write(path, evidence.model_dump(mode="json"))

    def speed(self, key: SpeedKey) -> SpeedEvidence:
        """The timings under `key`."""
        found = SpeedEvidence(key=key)
        for path in self._paths(self.speed_path(key)):
            known = read_evidence(path, SpeedEvidence)
            if known is not None and known.key == key:
                found.absorb(known)
        return found

    def save_speed(self, evidence: SpeedEvidence) -> None:
        """Write `evidence`, with what others have written for the same key meanwhile.

        Raises:
            TuningDatabaseError: The database cannot be written.
        """
        path = self.speed_path(evidence.key)
        with locked(path):
            evidence.absorb(self.speed(evidence.key))
            self._store.write(path, evidence.model_dump(mode="json"))

    def _paths(self, path: Path) -> list[Path]:
        """`path`, and the same of earlier versions."""
        relative = path.relative_to(self._store.folder)
        return [path, *(folder / relative for folder in self._store.earlier)]

    def quality_path(self, key: QualityKey) -> Path:
        """The file of `key`, whether it is there or not."""
        folder = self._store.folder / EVIDENCE / "quality" / key.weights_sha256[:16]
        return folder / f"{key.id}.json"

    def speed_path(self, key: SpeedKey) -> Path:
        """The file of `key`, whether it is there or not."""
        folder = self._store.folder / EVIDENCE / "speed" / folder_name(key.hardware.id)
        name = f"{key.id}.json"
        return folder / key.weights_sha256[:16] / name


def evidence_problems(store: Store) -> list[str]:
    """What is wrong with the evidence files of a database, one line each."""
    found = []
    for kind, model in (("quality", QualityEvidence), ("speed", SpeedEvidence)):
        for path in sorted((store.folder / EVIDENCE / kind).rglob("*.json")):
            value = _read(path)
            if value is None:
                found.append(f"{path} is not a JSON object; it counts as absent")
                continue
            try:
                evidence = model.model_validate(value)
            except ValidationError as error:
                found.append(f"{path} has {error.error_count()} wrong fields; it counts as absent")
                continue
            if path.stem != evidence.key.id:
                found.append(f"{path} holds another key than its name says; it counts as absent")
    return found


def sample_id(prompt: str, reference: object, metric: str) -> str:
    """The id of a prompt in evidence: changing what is right for it makes it another."""
    return digest([prompt, reference, metric])[:16]


def split_digest(samples: Sequence[str]) -> str:
    """The hash of which prompts, in any order."""
    return digest(sorted(samples))


def outcomes_digest(
    samples: Sequence[str], reference: Mapping[str, Outcome], own: Mapping[str, Outcome]
) -> str:
    """The hash of which of `samples` the reference and a configuration answer right."""
    return digest([[name, reference[name].correct, own[name].correct] for name in sorted(samples)])


def read_evidence(path: Path, kind: type[_Evidence]) -> _Evidence | None:
    """What a file holds; None where it is missing or damaged."""
    value = _read(path)
    try:
        return None if value is None else kind.model_validate(value)
    except ValidationError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
