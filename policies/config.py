"""A decoding configuration: one policy per axis."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from dllmc.policies._base import Checked, Policy
from dllmc.policies._composition import conflict
from dllmc.policies._registry import parse
from dllmc.policies.axes import (
    AXES,
    Belief,
    Cache,
    Commit,
    Constrain,
    Revise,
    Schedule,
    Score,
    Stop,
    Verify,
)
from dllmc.policies.belief.mask import MaskEmbedding
from dllmc.policies.cache.dual import DualCache
from dllmc.policies.cache.none import NoCache
from dllmc.policies.commit.quota import Quota
from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.constrain.none import NoConstraint
from dllmc.policies.revise.none import NoRevision
from dllmc.policies.schedule.blocks import Blocks
from dllmc.policies.score.probability import Probability
from dllmc.policies.stop.eos import EosStop
from dllmc.policies.verify.none import NoVerify
from dllmc.spec import ConfigError, statistics_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec


class DecodingConfig(Checked):
    """How to decode. What is left out has the default of the field: `SPEED_BASELINE`.

    Each axis takes a policy or a mapping with its `kind`, the same in Python, JSON, records and
    on the command line.

    Attributes:
        temperature: 0 takes the arg-max; otherwise Gumbel noise of this scale is added.
        seed: Of the noise.

    Example:
        >>> DecodingConfig(commit={"kind": "threshold", "threshold": 0.8}).commit.threshold
        0.8

    Raises:
        ConfigError: A field or a combination is invalid.
    """

    schedule: SerializeAsAny[Schedule] = Field(default_factory=Blocks)
    belief: SerializeAsAny[Belief] = Field(default_factory=MaskEmbedding)
    score: SerializeAsAny[Score] = Field(default_factory=Probability)
    commit: SerializeAsAny[Commit] = Field(default_factory=Threshold)
    cache: SerializeAsAny[Cache] = Field(default_factory=DualCache)
    verify: SerializeAsAny[Verify] = Field(default_factory=NoVerify)
    stop: SerializeAsAny[Stop] = Field(default_factory=EosStop)
    constrain: SerializeAsAny[Constrain] = Field(default_factory=NoConstraint)
    revise: SerializeAsAny[Revise] = Field(default_factory=NoRevision)
    temperature: float = Field(default=0.0, ge=0, le=100, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator(*AXES, mode="before")
    @classmethod
    def _parse(cls, value: object, info: ValidationInfo) -> Policy:
        assert info.field_name is not None
        return parse(info.field_name, value)

    @model_validator(mode="after")
    def _composes(self) -> Self:
        for one, other in itertools.combinations(self.policies, 2):
            reason = conflict(one, other)
            if reason is not None:
                raise ValueError(
                    f"`{one.axis}.kind`={one.kind!r} and `{other.axis}.kind`={other.kind!r} do "
                    f"not go together: {reason}"
                )
        for policy in self.policies if self.temperature > 0 else ():
            if "temperature" in policy.exclusions:
                raise ValueError(
                    f"`{policy.axis}.kind`={policy.kind!r} and `temperature`={self.temperature:g} "
                    f"do not go together: {policy.exclusions['temperature']}"
                )
        return self

    @property
    def policies(self) -> tuple[Policy, ...]:
        """One policy per axis."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def structure(self) -> tuple[object, ...]:
        """What sequences must have in common to be decided over together: all but values.

        The cache decides what is evaluated and not what commits.
        """
        return tuple(policy.structure() for policy in self.policies if policy.axis != "cache")

    @classmethod
    def from_json(cls, text: str) -> DecodingConfig:
        """Read a configuration from JSON text.

        Raises:
            ConfigError: The text is not JSON, not an object, or not a valid configuration.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"the decoding configuration is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ConfigError(f"a decoding configuration is a JSON object, not {text.strip()!r}")
        return cls(**value)

    def canonical_json(self) -> str:
        """The same text for the same configuration: sorted keys, no spaces, every field."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def replace(self, **changes: Any) -> DecodingConfig:
        """A copy with some fields changed."""
        return type(self)(**(dict(self) | changes))

    def check(self, response_length: int) -> None:
        """Raise `ConfigError` if a response of so many tokens cannot be decoded like this."""
        self.commit.check(response_length, len(self.schedule.blocks(response_length)))

    def check_model(self, spec: DenoiserSpec) -> None:
        """Raise `ConfigError` if the denoiser of this `spec` cannot be decoded like this."""
        if spec.role == "auxiliary":
            raise ConfigError(
                "`role`='auxiliary': an auxiliary model drafts or verifies for a denoiser and is "
                "not decoded by itself; decode the denoiser"
            )
        for policy in self.policies:
            policy.check_model(spec)

    def coming(
        self, masked: Iterable[int], progress: BlockProgress, stream: int
    ) -> tuple[int, ...]:
        """Which of the block's `masked` positions commit next, if that is known before.

        In their order; none if only the evaluation says.
        """
        if not (self.score.foreseen and self.commit.foreseen):
            return ()
        counters = self.seed, stream, progress.evaluations
        return tuple(self.commit.coming(self.score.ranked(masked, counters), progress))

    @property
    def statistics(self) -> str:
        """The statistics set that an evaluation must return, as `StepPlan` names it."""
        needed = set[str]().union(*(policy.needs for policy in self.policies))
        return statistics_name("sampled" if self.temperature > 0 else "greedy", needed)


QUALITY_REFERENCE = DecodingConfig(commit=Quota(), cache=NoCache(), stop=EosStop())
"""One token per step, no cache: what quality is compared with."""

SPEED_BASELINE = DecodingConfig(commit=Threshold(threshold=0.9), cache=DualCache(), stop=EosStop())
"""The field's default: what speed is a ratio to. It is itself lossy."""

SAFE = QUALITY_REFERENCE
"""What ships when nothing else is confirmed."""
