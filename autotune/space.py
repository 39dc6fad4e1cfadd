"""What may be searched, derived from what the policies say of their knobs."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from dllmc.policies._registry import kinds as kinds_of
from dllmc.policies.axes import Commit, Refreshing, Schedule
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.policies.standing import BlockProgress
from dllmc.spec import ConfigError, TuningError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from dllmc.policies._base import Knob, Policy
    from dllmc.spec import DenoiserSpec

# `stop` and `constrain` say what is asked for, not how to get there.
_AXES: Final = ("schedule", "belief", "score", "commit", "cache", "verify", "revise")

_FAST_DLLM = SPEED_BASELINE
PRESETS: Final[Mapping[str, DecodingConfig]] = {
    "QUALITY_REFERENCE": QUALITY_REFERENCE,
    "SPEED_BASELINE": SPEED_BASELINE,
    "Fast-dLLM, prefix cache": _FAST_DLLM.replace(cache={"kind": "prefix"}),
    "Fast-dLLM, factor 1.0": _FAST_DLLM.replace(commit={"kind": "factor", "factor": 1.0}),
    "LMDeploy, threshold 0.85": _FAST_DLLM.replace(
        commit={"kind": "threshold", "threshold": 0.85}
    ),
    "Fast-dLLM, no cache": _FAST_DLLM.replace(cache={"kind": "none"}),
    "LLaDA, one token per step, prefix cache": QUALITY_REFERENCE.replace(cache={"kind": "prefix"}),
}
"""Published settings, tried first; the slow ones last, for short budgets."""


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

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value for `trial`."""
        if self.choices is not None:
            fixed = len(self.choices) == 1
            return self.choices[0] if fixed else trial.suggest_categorical(name, self.choices)
        if self.integer:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Kinds per axis, and the knobs of each; a knob is searched only where its kind is chosen.

    Attributes:
        length: Response length in tokens.
        kinds: Kinds by axis.
        domains: Knobs by axis and kind.
    """

    length: int
    kinds: Mapping[str, tuple[str, ...]]
    domains: Mapping[tuple[str, str], Mapping[str, Domain]]

    def suggest(self, trial: optuna.Trial) -> DecodingConfig:
        """A configuration for `trial`.

        Raises:
            ConfigError: The policies do not go together.
        """
        chosen: dict[str, dict[str, Any]] = {}
        for axis, kinds in self.kinds.items():
            kind = kinds[0]
            if len(kinds) > 1:
                kind = trial.suggest_categorical(f"{axis}.kind", kinds)
            chosen[axis] = {"kind": kind}
            for name, domain in self.domains[axis, kind].items():
                chosen[axis][name] = domain.suggest(trial, f"{axis}.{kind}.{name}")
        return self._settle(chosen)

    def parameters(self, config: DecodingConfig) -> dict[str, Any] | None:
        """What `suggest` would have drawn for `config`, or for one that decodes the same.

        None where the space does not hold it.
        """
        found: dict[str, Any] = {}
        for axis, kinds in self.kinds.items():
            policy: Policy = getattr(config, axis)
            if policy.kind not in kinds:
                return None
            if len(kinds) > 1:
                found[f"{axis}.kind"] = policy.kind
            for name, domain in self.domains[axis, policy.kind].items():
                value = self._same(policy, name, domain)
                if value is _NOT_IN_SPACE:
                    return None
                if domain.choices is None or len(domain.choices) > 1:
                    found[f"{axis}.{policy.kind}.{name}"] = value
        return found

    def _same(self, policy: Policy, name: str, domain: Domain) -> Any:
        value = getattr(policy, name)
        if domain.choices is None:
            # A count that is left out is the largest: one token in each of `length` steps.
            value = domain.high if value is None else value
            inside = domain.low <= value <= domain.high
            return (int(value) if domain.integer else value) if inside else _NOT_IN_SPACE
        for choice in domain.choices:
            if choice == value:
                return choice
            if isinstance(policy, Schedule):
                other = type(policy)(**{name: choice})
                if other.blocks(self.length) == policy.blocks(self.length):
                    return choice
        return _NOT_IN_SPACE

    def _settle(self, chosen: dict[str, dict[str, Any]]) -> DecodingConfig:
        """The nearest valid configuration; values without effect are left out."""
        blocks = _build("schedule", chosen["schedule"]).blocks(self.length)  # type: ignore[attr-defined]
        commit = chosen["commit"]
        for name, domain in self.domains["commit", commit["kind"]].items():
            if domain.integer:
                commit[name] = self._nearest_valid(commit, name, len(blocks))
                if _commits_alike(commit, {**commit, name: None}, blocks):
                    commit[name] = None
        cache = _build("cache", chosen["cache"])
        longest = max(end - start for start, end in blocks)
        if isinstance(cache, Refreshing) and not any(
            cache.refreshes(1, committed) for committed in range(1, longest)
        ):
            chosen["cache"].pop("refresh_every", None)
        config = DecodingConfig(**chosen)
        config.check(self.length)
        return config

    def _nearest_valid(self, commit: Mapping[str, Any], name: str, blocks: int) -> int:
        wanted = int(commit[name])
        for value in sorted(range(1, self.length + 1), key=lambda v: (abs(v - wanted), v)):
            policy = _build("commit", {**commit, name: value})
            assert isinstance(policy, Commit)
            try:
                policy.check(self.length, blocks)
            except ConfigError:
                continue
            return value
        return wanted


_NOT_IN_SPACE: Final = object()


def search_space(
    spec: DenoiserSpec, length: int, narrowing: Mapping[str, Any] | None = None
) -> SearchSpace:
    """The space for a model and a response length.

    Args:
        spec: Kinds that this denoiser cannot be decoded with are left out.
        length: Response length in tokens.
        narrowing: What to search of it. `commit` takes a kind or a list of kinds;
            `cache.refresh_every`, or `cache.dual.refresh_every` for one kind alone, takes a
            value, a list of choices, or the two ends of a range where the knob has a range.

    Raises:
        TuningError: The narrowing names what does not exist, or leaves nothing.
    """
    left = dict(narrowing or {})
    kinds: dict[str, tuple[str, ...]] = {}
    domains: dict[tuple[str, str], Mapping[str, Domain]] = {}
    for axis in _AXES:
        members = {
            kind: policy
            for kind, policy in kinds_of(axis).items()
            if policy.suits(spec) and _usable(axis, kind, spec, length)
        }
        kinds[axis] = _narrow_kinds(axis, sorted(members), left.pop(axis, None))
        for kind in kinds[axis]:
            domains[axis, kind] = {
                name: _domain(members[kind], name, knob, length)
                for name, knob in members[kind].knobs().items()
                if knob.lossy
            }
    for key, value in left.items():
        _narrow_knob(key, value, domains)
    return SearchSpace(length, kinds, domains)


def _usable(axis: str, kind: str, spec: DenoiserSpec, length: int) -> bool:
    try:
        config = QUALITY_REFERENCE.replace(**{axis: {"kind": kind}})
        config.check_model(spec)
        config.check(length)
    except ConfigError:
        return False
    return True


def _domain(policy: type[Policy], name: str, knob: Knob, length: int) -> Domain:
    if knob.choices:
        choices = knob.choices
        if issubclass(policy, Schedule):
            # Lengths that cut the response into the same blocks are one choice.
            by_blocks = {str(policy(**{name: c}).blocks(length)): c for c in reversed(choices)}
            choices = tuple(choice for choice in choices if choice in by_blocks.values())
        return Domain(choices=choices)
    assert knob.low is not None
    assert knob.high is not None
    annotation = policy.model_fields[name].annotation
    parts = get_args(annotation) or (annotation,)
    integer = set(parts) - {types.NoneType} == {int}
    # Whole numbers count steps or tokens, and a response has `length` of each at most.
    high = max(knob.low, min(knob.high, length)) if integer else knob.high
    return Domain(None, knob.low, high, knob.scale == "log", integer)


def _narrow_kinds(axis: str, known: Sequence[str], wanted: Any) -> tuple[str, ...]:
    if wanted is None:
        return tuple(known)
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        if name not in known:
            raise TuningError(f"`space.{axis}`: there is no `{name}`; {nearest(str(name), known)}")
    if not names:
        raise TuningError(f"`space.{axis}` leaves no kind; known: {', '.join(known)}")
    return names


def _narrow_knob(
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
                _build(axis, {"kind": kind, name: number})
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


def _commits_alike(
    one: Mapping[str, Any], other: Mapping[str, Any], blocks: Sequence[tuple[int, int]]
) -> bool:
    try:
        policies = [_build("commit", values) for values in (one, other)]
    except ConfigError:
        return False
    progress = [
        BlockProgress(step, end - start, len(blocks))
        for start, end in blocks
        for step in range(end - start)
    ]
    first, second = ([p.values(at) for at in progress] for p in policies)
    return bool(first == second)


def _build(axis: str, values: Mapping[str, Any]) -> Policy:
    rest = {name: value for name, value in values.items() if name != "kind"}
    return kinds_of(axis)[values["kind"]](**rest)
