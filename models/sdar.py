"""SDAR (arXiv 2510.06303): Qwen3 that denoises block after block, for `JetLM/SDAR-*`.

Blocks are counted from the canvas start; a row sees everything up to the end of its own block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dllmc.models._keys import Size, TokenId
from dllmc.models._qwen import QwenDenoiser
from dllmc.models._qwen_config import QwenConfig

ARCHITECTURES = ("SDARForCausalLM",)


class SDARConfig(QwenConfig):
    """Head by head normalisation of Q and K; the width of a head is a key of its own.

    Not every published `config.json` says what the blocks and the mask are. Then they are what
    the published decoder takes: blocks of 4, and the mask token of the published tokenizer.
    For a checkpoint trained with longer blocks write its `block_size`, 4 to 64, into
    `config.json`.
    """

    family = "sdar"
    qk_norm = True
    only: ClassVar[Mapping[str, tuple[object, ...]]] = {"attention_bias": (False, None)}

    head_dim: Size
    block_size: Size = 4
    mask_token_id: TokenId = 151669

    @property
    def block_length(self) -> int:
        """Length of a block of block-causal attention."""
        return self.block_size


class SDAR(QwenDenoiser):
    """Block-causal attention; the logits of a row are for its own position."""

    config_type = SDARConfig
