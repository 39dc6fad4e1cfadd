"""What may be searched, derived from what the policies say of their knobs."""

from __future__ import annotations

import functools
import itertools
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

import optuna

from dllmc.autotune._domain import Domain, narrow_kinds, narrow_knob
from dllmc.autotune._settling import DECISIVE, build, largest_count, together, trimmed
from dllmc.policies._exclusions import exclusion
from dllmc.policies._registry import kinds as kinds_of
from dllmc.policies.axes import Belief, Schedule, Verify
from dllmc.policies.config import QUALITY_REFERENCE, SPEED_BASELINE, DecodingConfig
from dllmc.spec import ConfigError, TuningError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dllmc.policies._base import Knob, Policy
    from dllmc.spec import DenoiserSpec

# `stop` and `constrain` say what is asked for, not how to get there.
_AXES: Final = ("schedule", "belief", "score", "commit", "cache", "verify", "revise")

_FAST_DLLM = SPEED_BASELINE
PRESETS: Final[Mapping[str, DecodingConfig]] = {
    "QUALITY_REFERENCE": QUALITY_REFERENCE,
    "SPEED_BASELINE": SPEED_BASELINE,
    # Published responses of 256 to 1,024 tokens have blocks of 32; shorter ones have such.
    "Fast-dLLM, blocks of 8": _FAST_DLLM.replace(schedule={"kind": "blocks", "block_length": 8}),
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

    def suggest(self, trial: optuna.Trial | optuna.trial.FixedTrial) -> DecodingConfig:
        """A configuration for `trial`.

        What an optimizer may choose on an axis must not depend on its other choices. So each axis
        is drawn by itself, and where two kinds do not go together the less decisive one (see
        `DECISIVE`) gives way to the baseline's, or to the first of the space that fits.

        Raises:
            ConfigError: The space was narrowed to values that do not go together.
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

    def config_of(self, parameters: Mapping[str, Any]) -> DecodingConfig:
        """What `suggest` makes of these parameters.

        Raises:
            ConfigError: As `suggest`.
            ValueError: They are not of this space.
        """
        return self.suggest(optuna.trial.FixedTrial(dict(parameters)))

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
            domains = self.domains[axis, policy.kind]
            if any(
                getattr(policy, name) != field.get_default(call_default_factory=True)
                for name, field in type(policy).model_fields.items()
                if name not in {"kind", *domains} and _is_lossy(policy, name)
            ):
                return None
            for name, domain in domains.items():
                value = self._same(type(policy), name, getattr(policy, name), domain)
                if value is _NOT_IN_SPACE:
                    return None
                if domain.choices is None or len(domain.choices) > 1:
                    found[f"{axis}.{policy.kind}.{name}"] = value
        return found

    def steps(self, parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Parameters that differ from `parameters` in one choice: a kind, or a knob's next value.

        A kind that comes in has the usual values of its knobs.
        """
        for name, value in parameters.items():
            axis, _, rest = name.partition(".")
            if rest == "kind":
                others = {k: v for k, v in parameters.items() if not k.startswith(f"{axis}.")}
                for kind in self.kinds[axis]:
                    if kind != value:
                        yield others | {name: kind} | self._usual_parameters(axis, kind)
                continue
            kind, _, knob = rest.partition(".")
            for near in self.domains[axis, kind][knob].next_to(value):
                yield {**parameters, name: near}

    def _usual_parameters(self, axis: str, kind: str) -> dict[str, Any]:
        policy, found = kinds_of(axis)[kind], dict[str, Any]()
        for name, domain in self.domains[axis, kind].items():
            if domain.choices is None or len(domain.choices) > 1:
                default = policy.model_fields[name].get_default(call_default_factory=True)
                same = self._same(policy, name, default, domain)
                value = domain.nearest(default) if same is _NOT_IN_SPACE else same
                found[f"{axis}.{kind}.{name}"] = value
        return found

    def _same(self, kind: type[Policy], name: str, value: Any, domain: Domain) -> Any:
        """What stands for `value` in the domain."""
        if domain.choices is None:
            if value is None:
                value = largest_count(kind, name, self.length)
            inside = value is not None and domain.low <= value <= domain.high
            return (int(value) if domain.integer else value) if inside else _NOT_IN_SPACE
        for choice in domain.choices:
            if choice == value:
                return choice
            if issubclass(kind, Schedule):
                one, other = (kind(**{name: v}).blocks(self.length) for v in (value, choice))
                if one == other:
                    return choice
        return _NOT_IN_SPACE

    def _settle(self, chosen: Mapping[str, Mapping[str, Any]]) -> DecodingConfig:
        """The nearest valid configuration; values without effect are left out."""
        trim = trimmed(chosen, self._counts(chosen), self.length)
        # What cannot give way comes first, and what says what is asked for.
        axes = sorted(trim, key=lambda a: (len(self.kinds[a]) > 1, _rank(a)))
        kept = together([functools.partial(self._options, a, trim[a]) for a in axes])
        if kept is not None:
            trim = {policy.axis: policy.model_dump() for policy in kept}
            # A schedule that gave way has other blocks.
            trim = trimmed(trim, self._counts(trim), self.length)
        config = DecodingConfig(**trim)
        config.check(self.length)
        return config

    def _counts(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
        domains = self.domains["commit", chosen["commit"]["kind"]]
        return [name for name, domain in domains.items() if domain.integer]

    def _options(self, axis: str, values: Mapping[str, Any]) -> Iterator[Policy]:
        """The policy of these values, then others of the space, the baseline's kind first."""
        yield build(axis, values)
        usual = getattr(SPEED_BASELINE, axis).kind
        for kind in sorted(self.kinds[axis], key=lambda kind: kind != usual):
            usually = {}
            for name, domain in self.domains[axis, kind].items():
                field = kinds_of(axis)[kind].model_fields[name]
                usually[name] = self._usual(kinds_of(axis)[kind], name, field.default, domain)
            yield build(axis, {"kind": kind, **usually})

    def _usual(self, kind: type[Policy], name: str, default: Any, domain: Domain) -> Any:
        same = self._same(kind, name, default, domain)
        if same is _NOT_IN_SPACE:
            return domain.nearest(default)
        return same if domain.choices is not None else default


_NOT_IN_SPACE: Final = object()


def search_space(
    spec: DenoiserSpec,
    length: int,
    narrowing: Mapping[str, Any] | None = None,
    *,
    same_programs: bool = False,
) -> SearchSpace:
    """The space for a model and a response length.

    Args:
        spec: Kinds that this denoiser cannot be decoded with are left out.
        length: Response length in tokens.
        narrowing: What to search of it. `commit` takes a kind or a list of kinds;
            `cache.refresh_every`, or `cache.dual.refresh_every` for one kind alone, takes a
            value, a list of choices, or the two ends of a range where the knob has a range.
        same_programs: Leave out kinds that ask for other programs than the baseline's, which
            take seconds to compile, unless the narrowing names their axis or a knob of theirs.

    Raises:
        TuningError: The narrowing names what does not exist, or leaves nothing, or only kinds
            that do not go together.
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
        if same_programs and axis not in left:
            members = {
                kind: policy
                for kind, policy in members.items()
                if _same_programs(policy(kind=kind))
                or any(key.startswith(f"{axis}.{kind}.") for key in left)
            }
        kinds[axis] = narrow_kinds(axis, sorted(members), left.pop(axis, None))
        for kind in kinds[axis]:
            domains[axis, kind] = {
                name: _domain(members[kind], name, knob, length)
                for name, knob in members[kind].knobs().items()
                if knob.lossy
            }
    for key, value in left.items():
        narrow_knob(key, value, domains)
    _check_composition(kinds)
    return SearchSpace(length, kinds, domains)


def _check_composition(kinds: Mapping[str, tuple[str, ...]]) -> None:
    alone = [kinds_of(axis)[found[0]] for axis, found in kinds.items() if len(found) == 1]
    for one, other in itertools.combinations(alone, 2):
        found = exclusion(one, other)
        if found is not None and not found.condition:
            raise TuningError(
                f"`space` leaves only `{found.by}` and `{found.of}`, which do not go together: "
                f"{found.reason}"
            )


def _usable(axis: str, kind: str, spec: DenoiserSpec, length: int) -> bool:
    try:
        config = QUALITY_REFERENCE.replace(**{axis: {"kind": kind}})
        config.check_model(spec)
        config.check(length)
    except ConfigError:
        return False
    return True


def _rank(axis: str) -> int:
    return DECISIVE.index(axis) if axis in DECISIVE else -1


def _is_lossy(policy: Policy, name: str) -> bool:
    knob = policy.knobs().get(name)
    return knob is None or knob.lossy


def _same_programs(policy: Policy) -> bool:
    """Whether it runs on plain statistics, tokens and caches."""
    mixes = isinstance(policy, Belief) and policy.width > 0
    drafts = isinstance(policy, Verify) and policy.lanes > 1
    return not (policy.needs or mixes or drafts or "filters" in policy.properties)


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
