"""The values of a knob that are searched, and how a user narrows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dllmc.autotune._settling import build
from dllmc.spec import ConfigError, TuningError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

# From a value of a range to the next, as a share of the range.
_STEP: Final = 0.1


@dataclass(frozen=True, slots=True)
class Domain:
    """The values of one knob.

    Attributes:
        choices: All values, or None for a range.
        low: Smallest value of a range.
        high: Largest value of a range.
        log: Whether the range is searched on a logarithmic scale.
        integer: Whether a range holds whole numbers only.
    """

    choices: tuple[Any, ...] | None = None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    def nearest(self, value: Any) -> Any:
        """The value that is nearest to `value`, or the first choice."""
        if self.choices is not None:
            return self.choices[0]
        inside = self.high if value is None else min(max(value, self.low), self.high)
        return int(inside) if self.integer else inside

    def next_to(self, value: Any) -> list[Any]:
        """Values beside `value`: the choices before and behind it, or a step up and down."""
        if self.choices is not None:
            at = self.choices.index(value)
            return [self.choices[i] for i in (at - 1, at + 1) if 0 <= i < len(self.choices)]
        found = []
        for step in (-_STEP, _STEP):
            if self.log:
                near = value * (self.high / self.low) ** step
            else:
                near = value + step * (self.high - self.low)
            if self.integer:
                near = round(near) if round(near) != value else value + (1 if step > 0 else -1)
            found.append(min(max(near, self.low), self.high))
        return [near for near in found if near != value]

    def suggest(self, trial: optuna.Trial | optuna.trial.FixedTrial, name: str) -> Any:
        """A value for `trial`."""
        if self.choices is not None:
            fixed = len(self.choices) == 1
            return self.choices[0] if fixed else trial.suggest_categorical(name, self.choices)
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def narrow_kinds(axis: str, known: Sequence[str], wanted: Any) -> tuple[str, ...]:
    if wanted is None:
        return tuple(known)
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        if name not in known:
            raise TuningError(f"`space.{axis}`: there is no `{name}`; {nearest(str(name), known)}")
    if not names:
        raise TuningError(f"`space.{axis}` leaves no kind; known: {', '.join(known)}")
    return names


def narrow_knob(
    key: str, value: Any, domains: dict[tuple[str, str], Mapping[str, Domain]]
) -> None:
    full = {f"{axis}.{kind}.{name}" for (axis, kind), found in domains.items() for name in found}
    matching = [name for name in full if key == name or key.split(".") == [*name.split(".")[::2]]]
    if not matching:
        short = {".".join(name.split(".")[::2]) for name in full} | {axis for axis, _ in domains}
        raise TuningError(f"`space` has no knob `{key}`; {nearest(key, full | short)}")
    for found in matching:
        axis, kind, name = found.split(".")
        narrowed = _narrow_domain(key, value, domains[axis, kind][name])
        for choice in narrowed.choices or (narrowed.low, narrowed.high):
            number = int(choice) if narrowed.integer and choice is not None else choice
            try:
                build(axis, {"kind": kind, name: number})
            except ConfigError as error:
                raise TuningError(f"`space.{key}`={value!r}: {error}") from None
        domains[axis, kind] = {**domains[axis, kind], name: narrowed}


def _narrow_domain(key: str, value: Any, domain: Domain) -> Domain:
    if not isinstance(value, (list, tuple)):
        return Domain(choices=(value,))
    if not value:
        raise TuningError(f"`space.{key}` leaves no value; give one, or a list")
    if domain.choices is not None or len(value) != 2:
        return Domain(choices=tuple(value))
    low, high = value
    if not all(isinstance(end, (int, float)) for end in value) or low >= high:
        raise TuningError(f"`space.{key}`={value!r} is no range; give its two ends, low first")
    return Domain(None, low, high, domain.log, domain.integer)
