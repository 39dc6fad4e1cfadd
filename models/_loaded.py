"""What loading a model gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tokenizers import Tokenizer
    from torch import nn

    from dllmc.spec import DenoiserSpec


@dataclass(frozen=True)
class LoadedModel:
    """A denoiser with its weights, ready to run or to compile.

    Attributes:
        module: Tokens `[B, T]` -> logits `[B, T, vocab]`, in evaluation mode, without gradients.
        spec: What the compiler must know beside the graph.
        tokenizer: Of the checkpoint, or None where it has none: then only token ids go in.
        name: `embedded`, `random:SHAPE`, or the name of the checkpoint's folder.
        source: The checkpoint's folder, or None for random weights.
        config: The keys of `config.json`.
        chat_template: Jinja template of the checkpoint, or None where it has none.
        special_tokens: Their texts by role, such as `bos_token`, which the template may read.
    """

    module: nn.Module
    spec: DenoiserSpec
    tokenizer: Tokenizer | None
    name: str
    source: Path | None
    config: Mapping[str, Any]
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
