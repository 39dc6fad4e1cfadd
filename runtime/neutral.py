"""Knobs of execution that answers do not depend on, and which a record may carry.

| knob | values | taken up by |
|---|---|---|
| `select` | `plain`, `compiled` | whether decisions are one compiled function |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dllmc.policies.config import DecodingConfig
    from dllmc.runtime.engine import Engine

NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {"select": ("plain", "compiled")}
"""Values by knob; the first is what is done where nothing is said."""

UNCOMPILING: Final = ("eager", "aot", "onnxruntime", "tensorrt")
"""Back ends that compile nothing while they decode."""


def apply_neutral(engine: Engine, config: DecodingConfig, knobs: Mapping[str, Any]) -> list[str]:
    """Decode with `config` as `knobs` say.

    Returns:
        What nothing here takes up, in words.
    """
    left = [
        f"its knob `{name}`={value!r} is not known to this version"
        for name, value in knobs.items()
        if value not in NEUTRAL.get(name, ())
    ]
    if knobs.get("select") == "compiled":
        if engine.backend in UNCOMPILING:
            left.append(
                f"its knob `select`='compiled' needs another back end than `{engine.backend}`"
            )
        else:
            engine.selects.want(config)
    return left


def unsaid(config: DecodingConfig, values: Mapping[str, Any]) -> list[str]:
    """Fields that `values`, which `config` was read from, leave to their defaults, in words."""
    written = config.model_dump(mode="json")
    return [
        f"it does not say `{name}`, so that is {value!r}"
        for name, value in _leaves(written)
        if not _holds(values, name)
    ]


def _leaves(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}", inner


def _holds(values: Mapping[str, Any], name: str) -> bool:
    found: Any = values
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True
