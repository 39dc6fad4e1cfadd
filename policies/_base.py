"""What every policy is: a frozen, typed point on one axis, with knobs that describe themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from dllmc.policies.rows import Remembered
    from dllmc.policies.standing import BlockProgress
    from dllmc.spec import DenoiserSpec

Scale = Literal["linear", "log", "choice"]


@dataclass(frozen=True, slots=True)
class Knob:
    """How a field may be tuned.

    Attributes:
        low: Smallest value worth trying.
        high: Largest value worth trying.
        scale: `linear`, `log`, or `choice` among `choices`.
        lossy: Whether the value can change what is generated.
        structural: Whether it is part of a program's key; a value that is not structural is a
            tensor argument and never recompiles anything.
        choices: The values of a `choice`.
    """

    low: float | None
    high: float | None
    scale: Scale
    lossy: bool
    structural: bool
    choices: tuple[Any, ...] = ()


def knob(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    scale: Scale = "linear",
    lossy: bool,
    structural: bool = False,
    choices: tuple[Any, ...] = (),
    **constraints: Any,
) -> Any:
    """A pydantic field that the tuner can search; `constraints` (`gt`, `le`...) bound validity."""
    declared = Knob(low, high, "choice" if choices else scale, lossy, structural, choices)
    return Field(default=default, json_schema_extra={"knob": declared}, **constraints)  # type: ignore[dict-item]


class Checked(BaseModel):
    """A frozen model whose construction raises `ConfigError` in one line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise ConfigError(one_line(error)) from None


class Policy(Checked):
    """A member of one axis; `kind` names it in JSON.

    Attributes:
        axis: That it stands on.
        traits: What others may exclude it for, beside its name `axis.kind`.
        excludes: Why it does not go together with policies, by their trait or `axis.kind`, or
            with a `temperature` over 0.
    """

    axis: ClassVar[str]
    traits: ClassVar[frozenset[str]] = frozenset()
    excludes: ClassVar[Mapping[str, str]] = {}
    kind: str

    @property
    def needs(self) -> frozenset[str]:
        """Statistics beyond candidate, logit and tail mass, by their names in a `StepPlan`."""
        return frozenset()

    @property
    def properties(self) -> frozenset[str]:
        """Its traits as it is configured, and its name."""
        return self.traits | {f"{self.axis}.{self.kind}"}

    @property
    def exclusions(self) -> Mapping[str, str]:
        """What it excludes as it is configured."""
        return self.excludes

    def remembers(self, spec: DenoiserSpec) -> dict[str, Remembered]:
        """What it keeps between evaluations, by name; names begin with its axis and a dot."""
        del spec
        return {}

    def values(self, progress: BlockProgress) -> dict[str, float]:
        """Its knobs as numbers; the runtime stacks them into one tensor `[N]` each."""
        del progress
        return {}

    def check_model(self, spec: DenoiserSpec) -> None:
        """Raise `ConfigError` if it cannot decode the denoiser that `spec` describes."""

    def structure(self) -> tuple[object, ...]:
        """What sequences that are evaluated together must have in common.

        All fields but the knobs that are values.
        """
        values = {name for name, knob in self.knobs().items() if not knob.structural}
        fields = (getattr(self, name) for name in type(self).model_fields if name not in values)
        return type(self), *fields

    @classmethod
    def suits(cls, spec: DenoiserSpec) -> bool:
        """Whether the tuner should try this on the denoiser that `spec` describes."""
        del spec
        return True

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """The tunable fields by name."""
        found = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and isinstance(extra.get("knob"), Knob):
                found[name] = extra["knob"]
        return found  # type: ignore[return-value]


def one_line(error: ValidationError) -> str:
    """What is wrong with which value, as one line."""
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if not where:
            parts.append(message)
        elif item["type"] == "value_error" and message.startswith("`"):
            parts.append(message.replace("`", f"`{where}.", 1))
        elif item["type"] == "missing":
            parts.append(f"`{where}` is missing, and has no default")
        elif item["type"] == "extra_forbidden":
            parts.append(f"`{where}` is not a known field")
        else:
            parts.append(f"`{where}`={item['input']!r}: {message.lower()}")
    return "; ".join(parts)
