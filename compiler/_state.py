"""Run and trace a module that belongs to somebody, and leave it as it was."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off and gradients off, and then as they were: the module is its owner's."""
    training = {part: part.training for part in module.modules()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Undo what a forward stores in attributes, and in dicts and lists among them.

    A table that a forward keeps for its next call would be a fake tensor after tracing, and
    after a run would be as long as that run's canvas, which export would take for a limit.
    Functions under `torch.compile` run as written.
    """
    attributes = [(part, dict(vars(part))) for part in module.modules()]
    containers = [
        (value, value.copy())
        for _, found in attributes
        for value in found.values()
        if isinstance(value, dict | list)
    ]
    try:
        with _tracing():
            yield
    finally:
        for part, found in attributes:
            vars(part).clear()
            vars(part).update(found)
        for container, content in containers:
            _refill(container, content)


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    # torch's own encoder layers would be one operator each, which no pass can look into.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with (
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
        warnings.catch_warnings(),
    ):
        # What is stored while tracing is undone here, and does no harm.
        warnings.filterwarnings("ignore", message="The tensor attribute")
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _refill(container: dict[Any, Any] | list[Any], content: Any) -> None:
    container.clear()
    if isinstance(container, dict):
        container.update(content)
    else:
        container.extend(content)
