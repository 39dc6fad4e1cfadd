"""Decoding configurations from and for the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dllmc.policies.config import DecodingConfig

AUTO = "auto"
HELP = "auto, JSON, a JSON file, or QUALITY_REFERENCE, SPEED_BASELINE or SAFE."
_NAMED = ("QUALITY_REFERENCE", "SPEED_BASELINE", "SAFE")
# What a reader wants to know first; other axes are shown where they are not the default.
_SHOWN = ("commit", "cache", "schedule")


def read_config(text: str) -> DecodingConfig | None:
    """The configuration that `text` says; None for `auto`.

    Raises:
        ConfigError: It is no configuration and no file that holds one.
    """
    from dllmc.policies import config
    from dllmc.spec import ConfigError

    if text == AUTO:
        return None
    name = text.upper().replace("-", "_")
    if name in _NAMED:
        named: DecodingConfig = getattr(config, name)
        return named
    if text.lstrip().startswith("{"):
        return config.DecodingConfig.from_json(text)
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(
            f"`{text}` is no configuration file ({reason}); give {HELP.rstrip('.')}"
        ) from None
    try:
        return config.DecodingConfig.from_json(content)
    except ConfigError as error:
        raise ConfigError(f"{text}: {error}") from None


def describe(config: DecodingConfig) -> str:
    """The policies of `config` in a line: kinds, and values that say something."""
    from dllmc.policies.config import DecodingConfig as Config

    plain, words = Config(), []
    for axis in (*_SHOWN, *(name for name in type(config).model_fields if name not in _SHOWN)):
        value = getattr(config, axis)
        if axis not in _SHOWN and value == getattr(plain, axis):
            continue
        if not hasattr(value, "kind"):
            words.append(f"{axis} {_short(value)}")
            continue
        said = {k: v for k, v in value.model_dump().items() if k != "kind"}
        default = {k: v.default for k, v in type(value).model_fields.items()}
        # The one number of a commit rule or a schedule needs no name.
        first = None if axis == "cache" else next(iter(said), None)
        shown = [
            _short(v) if k == first else f"{k}={_short(v)}"
            for k, v in said.items()
            if v is not None and (v != default[k] or (k == first))
        ]
        name = f"{axis} none" if value.kind == "none" else value.kind
        words.append(" ".join([name, *shown]))
    return ", ".join(words)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
