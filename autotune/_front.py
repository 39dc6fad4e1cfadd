"""What is known of the quality of configurations, wherever they were decoded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from dllmc.autotune.evaluator import as_json, id_of
from dllmc.policies.config import QUALITY_REFERENCE, DecodingConfig
from dllmc.spec import ConfigError, TuningError
from dllmc.tuning_db.verdicts import StoredVerdict, VerdictKey, VerdictStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dllmc.autotune.evaluator import Evaluator
    from dllmc.tasks import Sample
    from dllmc.tuning_db import Key, QualityEvidence, Store


class Judged(Protocol):
    """What has a place on a front."""

    @property
    def loss(self) -> float:
        """Share of right answers lost against the reference."""

    @property
    def ratio(self) -> float:
        """Speed as a multiple of the baseline's."""


JudgedT = TypeVar("JudgedT", bound=Judged)


@dataclass(frozen=True, slots=True)
class Point:
    """A configuration, how good it is, and how fast.

    Attributes:
        config: The configuration.
        loss: Share of right answers lost against the reference on the tune prompts.
        n: Tune prompts.
        nfe: Evaluations per tune prompt.
        verdict: Of held-out prompts, if it was confirmed.
        ratio: Predicted speed as a multiple of the baseline's.
    """

    config: DecodingConfig
    loss: float
    n: int
    nfe: float
    verdict: StoredVerdict | None = None
    ratio: float = 0.0


def source_of(evaluator: Evaluator, store: Store, margin: float) -> Evaluator:
    """The evaluator of the class of numerics to take evidence from.

    The one that has confirmed configurations, before one that has not; then the own; then the one
    that most is known of.

    Args:
        evaluator: Of the workload.
        store: The database.
        margin: Loss of right answers that is allowed.

    Raises:
        TuningError: In no class anything was decoded with the reference.
    """
    counts: Counter[str] = Counter()
    decoded = set()
    for evidence in evaluator.every_evidence():
        counts[evidence.key.numerics] += len(evidence.outcomes)
        if evidence.key.config == as_json(QUALITY_REFERENCE) and evidence.outcomes:
            decoded.add(evidence.key.numerics)
    own = evaluator.key.numerics
    if not decoded:
        raise TuningError(
            f"the database knows no answers of task `{evaluator.task.name}` with these weights "
            f"and {evaluator.key.workload.max_new_tokens} new tokens; run dllmc tune once, here "
            "or anywhere, and give its database with --db"
        )

    def worth(numerics: str) -> tuple[bool, bool, int, str]:
        key = evaluator.key.model_copy(update={"numerics": numerics})
        confirmed = bool(passed(key, store, evaluator.task.name, margin))
        return confirmed, numerics == own, counts[numerics], numerics

    return evaluator.of_numerics(max(decoded, key=worth))


def known_prompts(
    source: Evaluator, samples: Sequence[Sample], verdicts: Mapping[str, StoredVerdict]
) -> list[Sample]:
    """Those of `samples` that the reference and every confirmed configuration were decoded for."""
    confirmed = [DecodingConfig(**verdict.config) for verdict in verdicts.values()]
    wanted = [source.outcomes(config) for config in (QUALITY_REFERENCE, *confirmed)]
    return [s for s in samples if all(id_of(s) in outcomes for outcomes in wanted)]


def points_of(
    source: Evaluator,
    samples: Sequence[Sample],
    verdicts: Mapping[str, StoredVerdict],
    margin: float,
) -> list[Point]:
    """Configurations that were decoded for all of `samples` and seem to keep the margin.

    Args:
        source: Whose class of numerics is asked.
        samples: Tune prompts.
        verdicts: Of confirmed configurations.
        margin: Loss of right answers that is allowed.
    """
    reference = source.outcomes(QUALITY_REFERENCE)
    names = [id_of(sample) for sample in samples]
    found = []
    for evidence in source.every_evidence():
        config = _config_of(evidence)
        if evidence.key.numerics != source.key.numerics or config in (None, QUALITY_REFERENCE):
            continue
        if any(name not in evidence.outcomes for name in names):
            continue
        own = [evidence.outcomes[name] for name in names]
        lost = sum(reference[n].correct - o.correct for n, o in zip(names, own, strict=True))
        assert config is not None
        verdict = verdicts.get(config.canonical_json())
        if verdict is None and lost > margin * len(names):
            continue
        nfe = sum(outcome.nfe for outcome in own) / len(own)
        found.append(Point(config, lost / len(names), len(names), nfe, verdict))
    return found


def passed(key: Key, store: Store, task: str, margin: float) -> dict[str, StoredVerdict]:
    """The last verdict that passed within `margin`, by configuration."""
    found = {}
    for verdict in VerdictStore(store).load(verdict_key(key, task)):
        if verdict.passed and verdict.margin <= margin:
            with_every_field = DecodingConfig(**verdict.config).canonical_json()
            found[with_every_field] = verdict
    return found


def verdict_key(key: Key, task: str) -> VerdictKey:
    """What verdicts under `key` are filed by."""
    return VerdictKey(
        weights_sha256=key.model.weights_sha256,
        dtype=key.model.dtype,
        numerics=key.numerics,
        task=task,
        max_new_tokens=key.workload.max_new_tokens,
    )


def front(points: Sequence[JudgedT]) -> list[JudgedT]:
    """Those of `points` than which none is both at least as fast and at least as good.

    Fastest first.
    """
    found: list[JudgedT] = []
    for point in sorted(points, key=lambda p: (-p.ratio, p.loss)):
        if not found or point.loss < found[-1].loss:
            found.append(point)
    return found


def _config_of(evidence: QualityEvidence) -> DecodingConfig | None:
    try:
        return DecodingConfig(**evidence.key.config)
    except ConfigError:
        return None  # of a version whose policies had other fields
