"""Configurations that `dllmc bench` is to compare: the caller's, and the published strategies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dllmc.cli._console import remark
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.published import Strategy
    from dllmc.runtime import Engine


@dataclass
class Added:
    """Configurations beside those that are always there.

    Attributes:
        given: By the caller.
        published: Whether the published strategies are among them, at their defaults.
        left_out: Those of them that cannot decode, with the reason, as far as was said.
    """

    given: Mapping[str, DecodingConfig]
    published: bool
    left_out: dict[str, str] = field(default_factory=dict)

    def configs(self, engine: Engine, length: int) -> dict[str, DecodingConfig]:
        """By name, for responses of so many tokens; what cannot decode is said once."""
        from dllmc.policies.published import STRATEGIES

        found = {}
        for strategy in STRATEGIES if self.published else ():
            try:
                found[strategy.name] = _config(strategy, engine, length)
            except ConfigError as error:
                if strategy.name not in self.left_out:
                    remark(f"without {strategy.name}: {error}")
                self.left_out[strategy.name] = str(error)
        return {**found, **self.given}


def _config(strategy: Strategy, engine: Engine, length: int) -> DecodingConfig:
    if strategy.auxiliary and engine.auxiliary is None:
        raise ConfigError("it asks a causal model too; give one with `--auxiliary`")
    tokenizer = engine.package.tokenizer
    config = strategy.config({} if tokenizer is None else tokenizer.get_vocab(), length)
    config.check_model(engine.spec)
    config.check(length)
    return config
