"""What the responses of a model must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dllmc.spec import ConfigError

if TYPE_CHECKING:
    import torch

    from dllmc.artifact import Package
    from dllmc.policies.config import DecodingConfig
    from dllmc.policies.constrain import TokenAutomaton


def automaton_for(
    package: Package, config: DecodingConfig, device: torch.device
) -> TokenAutomaton | None:
    """The automaton of `config`'s constraint over the vocabulary of `package`; None without one.

    Raises:
        ConfigError: The model has no tokenizer, or cannot write what is allowed.
    """
    if config.constrain.free:
        return None
    if package.tokenizer is None:
        raise ConfigError(
            f"`constrain.kind`={config.constrain.kind!r} is about text, and model "
            f"`{package.name}` has no tokenizer; use 'none'"
        )
    return config.constrain.automaton(package.tokenizer, package.spec).to(device)
