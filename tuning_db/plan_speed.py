"""How long steps take in one environment, whatever the task: latencies by plan, and the host.

    <root>/<version>/evidence/plans/<hardware id>/<weights, 16 digits>/<id>.json

With the plans that prompts needed, which are quality evidence, it says how long decoding them
takes on a machine that has never seen them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from dllmc.spec import HardwareKey  # noqa: TC001 - pydantic reads it at run time
from dllmc.tuning_db._files import folder_name, short_id
from dllmc.tuning_db.record import Part
from dllmc.tuning_db.store import EVIDENCE, Store

if TYPE_CHECKING:
    from pathlib import Path


class PlanSpeedKey(Part):
    """What the latency of a step depends on, besides its plan."""

    subject: Literal["plans"] = "plans"
    weights_sha256: str
    dtype: str
    numerics: str
    hardware: HardwareKey
    software: dict[str, str]
    execution: str


class Latency(Part):
    """The latency of a program in one plan.

    Attributes:
        n: Timings.
        median: Seconds.
        low: First quartile, in seconds.
        high: Third quartile, in seconds.
    """

    n: int = Field(gt=0)
    median: float = Field(gt=0)
    low: float = Field(gt=0)
    high: float = Field(gt=0)


class HostCost(Part):
    """Seconds that decoding takes beside its programs, for one choice of policies.

    Attributes:
        n: Steps that it was fitted to.
        step: Per step.
        row: Per step and row with statistics, over all sequences.
        gather: Per step whose caches are gathered, and slot of each of its sequences.
        call: Per batch of prompts.
        error: Median difference between what is said of a step and what it took, as a share of
            the whole step.
    """

    n: int = Field(gt=0)
    step: float = Field(ge=0)
    row: float = Field(ge=0)
    gather: float = Field(ge=0)
    call: float = Field(ge=0)
    error: float = Field(ge=0)


class PlanSpeeds(Part):
    """What is known of one environment.

    Attributes:
        key: The environment.
        plans: Latencies by key of the plan; of the joint sampler's programs with `joint-` before.
        hosts: By the kinds of the policies, the blocks and the batch.
    """

    schema_version: Literal[1] = 1
    key: PlanSpeedKey
    plans: dict[str, Latency] = Field(default_factory=dict)
    hosts: dict[str, HostCost] = Field(default_factory=dict)


class PlanSpeedStore:
    """The speeds of plans in a tuning database; damaged files count as absent.

    Args:
        store: The database.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self, key: PlanSpeedKey) -> PlanSpeeds:
        """What is known under `key`."""
        try:
            value = json.loads(self.path_of(key).read_text(encoding="utf-8"))
            found = PlanSpeeds.model_validate(value)
        except (OSError, ValueError, RecursionError, ValidationError):
            return PlanSpeeds(key=key)
        return found if found.key == key else PlanSpeeds(key=key)

    def save(self, speeds: PlanSpeeds) -> None:
        """Write `speeds`, and keep what others have written meanwhile of other plans.

        Raises:
            TuningDatabaseError: The database cannot be written.
        """
        known = self.load(speeds.key)
        united = speeds.model_copy(
            update={
                "plans": {**known.plans, **speeds.plans},
                "hosts": {**known.hosts, **speeds.hosts},
            }
        )
        self._store.write(self.path_of(speeds.key), united.model_dump(mode="json"))

    def path_of(self, key: PlanSpeedKey) -> Path:
        """The file of `key`, whether it is there or not."""
        folder = self._store.folder / EVIDENCE / "plans" / folder_name(key.hardware.id)
        name = f"{short_id(key.model_dump(mode='json'))}.json"
        return folder / key.weights_sha256[:16] / name
